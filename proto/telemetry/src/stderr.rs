//! Where log lines go: to stderr, and never at the cost of the program.
//!
//! A thread of its own writes. Where nobody reads what it writes, lines gather up to a bound, and those beyond it are
//! lost: a program that stands still because its log is not read would be worse. One event is one line: what comes from
//! outside cannot make a second one.

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written at the most.
const WAITING: usize = 10_000;

static WRITER: OnceLock<NonBlocking> = OnceLock::new();

/// Starts the writing thread. What waits is written when the guard is dropped, for a second at the most.
pub(crate) fn start() -> (OneLine, WorkerGuard) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .lossy(true)
        .thread_name("stderr")
        .finish(io::stderr());
    let writer = WRITER.get_or_init(|| writer);
    (OneLine(writer.clone()), guard)
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
pub(crate) struct OneLine(NonBlocking);

impl Write for OneLine {
    /// The formatter writes one whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl MakeWriter<'_> for OneLine {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes out line breaks within an event; the one at its end stays.
fn one_line(event: &[u8]) -> Vec<u8> {
    let (body, end) = event.strip_suffix(b"\n").map_or((event, &b""[..]), |body| (body, &b"\n"[..]));
    let mut line = Vec::with_capacity(event.len());
    for &byte in body {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
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
        assert_eq!(one_line(b"plain\n"), b"plain\n");
        assert_eq!(one_line(b"a\r\n2026 ERROR forged\n"), b"a\\r\\n2026 ERROR forged\n");
        assert_eq!(one_line(b""), b"");
    }
}
