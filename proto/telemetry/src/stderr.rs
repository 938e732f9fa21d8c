//! Writes log lines to stderr and never holds the program up.
//!
//! A separate thread writes. While nobody reads its output, lines gather up to a bound, and further
//! lines are lost: a program that stops because nobody reads its log would be worse. One event is
//! one line: text from outside cannot start a second one.

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written at the most.
const WAITING: usize = 10_000;

static WRITER: OnceLock<NonBlocking> = OnceLock::new();

/// Starts the writing thread. What waits is written when the guard is dropped, for a second at the
/// most.
pub(crate) fn start(colors: bool) -> (OneLine, WorkerGuard) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .lossy(true)
        .thread_name("stderr")
        .finish(io::stderr());
    let writer = WRITER.get_or_init(|| writer);
    (
        OneLine {
            out: writer.clone(),
            colors,
        },
        guard,
    )
}

/// A line that is no event of this program, such as one of a child's: to stderr in the same way.
pub fn print_line(text: &str) {
    let line = format!("{text}\n");
    match WRITER.get() {
        Some(writer) => drop(writer.clone().write_all(line.as_bytes())),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Makes each event that is written one line.
#[derive(Clone)]
pub(crate) struct OneLine {
    out: NonBlocking,
    /// Events carry terminal codes of the formatter's own.
    colors: bool,
}

impl Write for OneLine {
    /// The formatter writes one whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.out.write_all(&one_line(event, self.colors))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl MakeWriter<'_> for OneLine {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes out line breaks and other control characters within an event; the line break at its end
/// stays, and so do terminal codes where the formatter sets some.
fn one_line(event: &[u8], colors: bool) -> Vec<u8> {
    let (body, end) = event
        .strip_suffix(b"\n")
        .map_or((event, &b""[..]), |body| (body, &b"\n"[..]));
    let mut line = Vec::with_capacity(event.len());
    for &byte in body {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            0x1b if !colors => line.extend(b"\\x1b"),
            byte => line.push(byte),
        }
    }
    line.extend(end);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_text_holds() {
        assert_eq!(one_line(b"a\x1b[7mb\n", false), b"a\\x1b[7mb\n");
        assert_eq!(one_line(b"a\x1b[7mb\n", true), b"a\x1b[7mb\n");
        assert_eq!(one_line(b"plain\n", false), b"plain\n");
        assert_eq!(
            one_line(b"a\r\n2026 ERROR forged\n", true),
            b"a\\r\\n2026 ERROR forged\n"
        );
        assert_eq!(one_line(b"", true), b"");
    }
}
