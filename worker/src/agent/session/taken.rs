//! How long a worker waits for its own identity.
//!
//! One that was killed before it wrote its session down, or that is of an earlier version, is taken
//! once the lease of its last run has ended. One on a copied state folder is refused for longer.

use qlora_client::retry::passes_after;
use tokio::time::Instant;
use tonic::Status;

/// The way out once it has waited for long enough.
pub(super) const HELP: &str =
    "delete the file `instance` of the copied state folder, or give --name NAME";

/// Until when a refusal that passes is waited for.
#[derive(Debug, Default)]
pub(super) struct Taken(Option<Instant>);

impl Taken {
    /// Whether to try again at `now`, after the refusal `status`; none where it does not pass by
    /// itself.
    pub fn wait(&mut self, status: &Status, now: Instant) -> Option<bool> {
        let passes = passes_after(status)?;
        let until = *self.0.get_or_insert_with(|| {
            // A coordinator that stands still meanwhile extends the lease.
            let longest = 2 * passes;
            tracing::warn!(
                "{}; trying again until that lease has ended, {} s at the most",
                status.message(),
                longest.as_secs()
            );
            now + longest
        });
        Some(now < until)
    }

    /// The worker was taken.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qlora_proto::PASSES_AFTER;

    use super::*;

    fn refusal(after: &str) -> Status {
        let mut status = Status::already_exists("it is there");
        let value = after.parse().expect("a value");
        status.metadata_mut().insert(PASSES_AFTER, value);
        status
    }

    #[test]
    fn a_refusal_is_waited_for_two_leases_from_the_first_and_anew_after_a_success() {
        let (mut taken, now) = (Taken::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        let status = refusal("4000");
        assert_eq!(taken.wait(&status, now), Some(true));
        assert_eq!(taken.wait(&status, at(7_900)), Some(true));
        assert_eq!(taken.wait(&status, at(8_000)), Some(false));
        taken.end();
        assert_eq!(taken.wait(&status, at(9_000)), Some(true));
        assert_eq!(taken.wait(&status, at(17_000)), Some(false));
    }

    #[test]
    fn a_refusal_that_does_not_say_when_it_passes_is_not_waited_for() {
        let mut taken = Taken::default();
        for status in [Status::already_exists("a name"), refusal("soon")] {
            assert_eq!(taken.wait(&status, Instant::now()), None);
        }
    }
}
