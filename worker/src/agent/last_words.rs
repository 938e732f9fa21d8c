//! What a training process said on stderr before it died.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Lines that are kept.
const LINES: usize = 5;
/// What the runtime of Rust writes when a thread panics, or its stack is used up.
const PANICS: [&str; 2] = ["panicked at", "has overflowed its stack"];

#[derive(Debug, Default)]
pub struct LastWords {
    last: Vec<String>,
    /// Of the first panic: where it was, and what it said.
    panic: Vec<String>,
}

impl LastWords {
    /// Reads `stderr` to its end, and repeats it.
    pub async fn of(stderr: impl AsyncBufRead + Unpin) -> Self {
        let mut words = Self::default();
        let mut lines = stderr.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            qlora_telemetry::print_line(&line);
            words.hear(line);
        }
        words
    }

    fn hear(&mut self, line: String) {
        let begins = self.panic.is_empty() && PANICS.iter().any(|panic| line.contains(panic));
        if begins || self.panic.len() == 1 {
            self.panic.push(line.clone());
        }
        if self.last.len() == LINES {
            self.last.remove(0);
        }
        self.last.push(line);
    }

    /// Where it panicked, and what it said of it.
    pub fn panic(&self) -> Option<String> {
        (!self.panic.is_empty()).then(|| self.panic.join(" "))
    }

    pub fn text(&self) -> String {
        self.last.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_remembered_whatever_is_written_after_it() {
        let mut words = LastWords::default();
        assert_eq!((words.panic(), words.text()), (None, String::new()));
        let trace = (0..40).map(|i| format!("  {i}: some::frame"));
        let said = [
            "starting",
            "thread 'main' panicked at src/x.rs:3:5:",
            "index out of bounds",
            "stack backtrace:",
        ];
        said.map(str::to_owned)
            .into_iter()
            .chain(trace)
            .for_each(|line| words.hear(line));
        words.hear("thread 'other' panicked at src/y.rs:1:1:".into());
        assert_eq!(
            words.panic().as_deref(),
            Some("thread 'main' panicked at src/x.rs:3:5: index out of bounds")
        );
        assert!(
            words.text().ends_with("src/y.rs:1:1:")
                && words.text().matches(" | ").count() == LINES - 1
        );
    }
}
