//! How long a coordinator that a command follows has been away.

use std::time::{Duration, Instant};

/// Time that a coordinator may be away before following ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts from the first try that failed. A stream that is quiet for an hour says nothing of the
/// coordinator, so the last word from it is no measure.
#[derive(Debug, Default)]
pub(super) struct Absence {
    since: Option<Instant>,
}

impl Absence {
    /// The coordinator was heard.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// A try failed at `now`; whether the coordinator has been away for too long by then.
    pub fn is_too_long(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) > PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_from_the_first_try_that_failed_and_anew_after_a_word() {
        let (second, mut now) = (Duration::from_secs(1), Instant::now());
        let mut absence = Absence::default();
        for _ in 0..2 {
            // However long nothing was to be said before.
            now += 1000 * second;
            assert!(!absence.is_too_long(now));
            assert!(!absence.is_too_long(now + PATIENCE));
            assert!(absence.is_too_long(now + PATIENCE + second));
            absence.end();
        }
    }
}
