//! How long a transfer goes on through trouble, and what a person hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use crate::retry::{Backoff, Policy, passes_after, root_cause};
use crate::transfer_error::TransferError;

/// How long a person's transfer goes on after a failure while nothing more comes through. The
/// coordinator itself has then tried its store for as long, once at the least.
const PATIENCE: Duration = Duration::from_secs(30);

/// In whose name a transfer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A person is told at once of what somebody has to mend, such as a token that is refused.
    Person,
    /// A worker goes on: its session registers again meanwhile, and ends the transfer where that
    /// fails.
    Worker,
}

/// The most bytes of a transfer that were through at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Through(Arc<AtomicU64>);

impl Through {
    pub fn tell(&self, bytes: u64) {
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }
}

/// What is left of the patience with one transfer.
pub(super) struct Patience {
    caller: Caller,
    /// How long a person's is.
    limit: Duration,
    backoff: Backoff,
    through: Through,
    /// When a try failed first since more bytes came through, and how many were through then.
    failing: Option<(Instant, u64)>,
}

impl Patience {
    pub fn new(caller: Caller) -> Self {
        Self::limited(caller, PATIENCE)
    }

    /// Where that of a person lasts for `limit`.
    pub fn limited(caller: Caller, limit: Duration) -> Self {
        Self {
            caller,
            limit,
            backoff: Backoff::new(Policy::CALL),
            through: Through::default(),
            failing: None,
        }
    }

    /// Where the transfer tells how far it is.
    pub fn through(&self) -> Through {
        self.through.clone()
    }

    /// Waits before the next try.
    pub async fn wait(&mut self) {
        self.backoff.wait().await;
    }

    /// The same after trouble that may pass.
    ///
    /// # Errors
    /// A person has waited long enough.
    pub async fn bear(&mut self, status: Box<Status>) -> Result<(), TransferError> {
        let least = passes_after(&status).unwrap_or_default();
        if self.is_over(&status, Instant::now()) {
            return Err(TransferError::Stuck(status));
        }
        self.backoff.wait_for(least).await;
        Ok(())
    }

    /// Whether a person has waited long enough by `now`, when a try ended with `status`.
    fn is_over(&mut self, status: &Status, now: Instant) -> bool {
        let is_person = self.caller == Caller::Person;
        let through = self.through.0.load(Ordering::Relaxed);
        let since = match self.failing {
            Some((since, before)) if through <= before => since,
            _ => {
                self.failing = Some((now, through));
                self.backoff.reset();
                if is_person {
                    tracing::warn!(
                        "the transfer does not go on: {}; trying for {} s",
                        root_cause(status),
                        self.limit.as_secs()
                    );
                }
                now
            }
        };
        is_person && now - since >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_waits_for_a_while_after_the_last_byte_and_a_worker_for_ever() {
        let status = Status::unavailable("the artifact store is not available");
        let mut person = Patience::new(Caller::Person);
        let mut worker = Patience::new(Caller::Worker);
        let begin = Instant::now();
        let mut over = |seconds: u64, bytes: u64| {
            let now = begin + Duration::from_secs(seconds);
            person.through().tell(bytes);
            assert!(!worker.is_over(&status, now), "{seconds}");
            person.is_over(&status, now)
        };
        // The first failure may come late, and is no reason to give up.
        assert!(!over(100, 5));
        assert!(!over(129, 5));
        // A byte more, and it begins anew; what comes again is no more.
        assert!(!over(131, 6));
        assert!(!over(160, 3));
        assert!(over(161, 6));
    }
}
