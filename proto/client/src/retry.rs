//! What a failed call means: why it failed, whether it is tried again, and how long to wait before
//! that. One policy for everything that goes on by itself.

use std::time::Duration;

use tonic::{Code, Status};

/// What a status means for whoever asked in the name of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Trouble that passes: the connection, or the coordinator's own.
    Again,
    /// The worker has to register again first.
    Register,
    /// The attempt is over for this worker.
    Over,
    /// This request will never be taken; another may.
    Refused,
}

/// Judges a status.
///
/// Codes are those of the gRPC guide; which of them the coordinator gives to what is written down
/// in `docs/reference`.
pub fn judge(status: &Status) -> Verdict {
    match status.code() {
        Code::Unauthenticated => Verdict::Register,
        Code::FailedPrecondition | Code::NotFound => Verdict::Over,
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::AlreadyExists => Verdict::Refused,
        _ => Verdict::Again,
    }
}

/// The innermost reason of a failed call: "connection refused" rather than "transport error".
pub fn root_cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

/// Waits that double from try to try, up to a bound.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(5);

    /// The wait before the next try.
    pub fn take(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(Self::LONGEST);
        wait
    }

    /// Waits before the next try.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }

    /// A try has succeeded.
    pub fn reset(&mut self) {
        self.next = Self::SHORTEST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: Self::SHORTEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..7).map(|_| backoff.take().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.take(), Backoff::SHORTEST);
    }

    #[test]
    fn trouble_of_the_other_side_is_never_final() {
        let passing = [
            Code::Unavailable,
            Code::Internal,
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Aborted,
        ];
        for code in
            passing
                .into_iter()
                .chain([Code::ResourceExhausted, Code::Cancelled, Code::DataLoss])
        {
            assert_eq!(judge(&Status::new(code, "")), Verdict::Again, "{code:?}");
        }
        assert_eq!(judge(&Status::unauthenticated("")), Verdict::Register);
        assert_eq!(judge(&Status::failed_precondition("")), Verdict::Over);
        assert_eq!(judge(&Status::invalid_argument("")), Verdict::Refused);
    }
}
