//! What a failed call means: why it failed, whether it is retried, and how long to wait before
//! that. There is one policy for everything that retries by itself.

use std::future::Future;
use std::time::Duration;

use qlora_proto::PASSES_AFTER;
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

impl Verdict {
    /// Whether the same request will never be taken.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Over | Self::Refused)
    }
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

/// The longest that a refusal is waited for at once, whatever the coordinator says: as long as the
/// longest lease. No clock counts as far as a number of the wire may be.
const LONGEST_TOLD: Duration = Duration::from_secs(3600);

/// After how long a refusal has passed, where the coordinator says so; an hour at the most.
pub fn passes_after(status: &Status) -> Option<Duration> {
    let told = status.metadata().get(PASSES_AFTER)?.to_str().ok()?;
    let told = told.parse().ok().map(Duration::from_millis)?;
    Some(told.min(LONGEST_TOLD))
}

/// Whether an HTTP server that answers with `status` answers so again. Trouble of the server
/// passes, and so do a request that came too slowly or too early and one of too many.
pub fn is_final_http(status: u16) -> bool {
    status < 500 && !matches!(status, 408 | 425 | 429)
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

/// Calls until the answer is one that another try does not change: a success, or a refusal for
/// good. `call` makes its request anew for each try, with the session that is current by then.
///
/// # Errors
/// A status whose verdict is final.
pub async fn until_answered<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut backoff = Backoff::new(Policy::CALL);
    loop {
        match call().await {
            Err(status) if !judge(&status).is_final() => {
                let least = passes_after(&status).unwrap_or_default();
                backoff.wait_for(least).await;
            }
            answer => return answer,
        }
    }
}

/// How long the waits between tries are, and how many tries follow the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    shortest: Duration,
    longest: Duration,
    /// None is no bound: whoever wants to give up drops the caller.
    retries: Option<u32>,
}

impl Policy {
    /// Calls of the coordinator, which may be away for long and must hear in the end.
    pub const CALL: Self = Self {
        shortest: Duration::from_millis(200),
        longest: Duration::from_secs(5),
        retries: None,
    };
    /// Downloads from servers of others: another source may be better than another try.
    pub const DOWNLOAD: Self = Self {
        shortest: Duration::from_secs(2),
        longest: Duration::from_secs(16),
        retries: Some(5),
    };
}

/// Waits that double from try to try, up to a bound.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: Policy,
    next: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            next: policy.shortest,
            tries: 0,
        }
    }

    /// Whether no further try is left.
    pub fn is_spent(&self) -> bool {
        self.policy
            .retries
            .is_some_and(|retries| self.tries >= retries)
    }

    /// The wait before the next try.
    pub fn take(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.policy.longest);
        self.tries = self.tries.saturating_add(1);
        wait
    }

    /// Waits before the next try.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }

    /// The wait before the next try, `least` at the least.
    pub fn take_for(&mut self, least: Duration) -> Duration {
        self.take().max(least)
    }

    /// Waits before the next try, for `least` at the least.
    pub async fn wait_for(&mut self, least: Duration) {
        tokio::time::sleep(self.take_for(least)).await;
    }

    /// A try has succeeded.
    pub fn reset(&mut self) {
        *self = Self::new(self.policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(backoff: &mut Backoff, n: usize) -> Vec<u128> {
        (0..n).map(|_| backoff.take().as_millis()).collect()
    }

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Policy::CALL);
        assert_eq!(
            waits(&mut backoff, 7),
            [200, 400, 800, 1600, 3200, 5000, 5000]
        );
        assert!(!backoff.is_spent());
        backoff.reset();
        assert_eq!(waits(&mut backoff, 1), [200]);
    }

    #[test]
    fn a_bounded_policy_is_spent_after_its_retries_and_begins_anew_after_a_success() {
        let mut backoff = Backoff::new(Policy::DOWNLOAD);
        assert_eq!(waits(&mut backoff, 4), [2000, 4000, 8000, 16000]);
        assert!(!backoff.is_spent());
        assert_eq!(waits(&mut backoff, 1), [16000]);
        assert!(backoff.is_spent());
        backoff.reset();
        assert!(!backoff.is_spent());
    }

    #[test]
    fn trouble_of_the_other_side_is_never_final() {
        let passing = [
            Code::Unavailable,
            Code::Internal,
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::ResourceExhausted,
            Code::Cancelled,
            Code::DataLoss,
        ];
        for code in passing {
            assert_eq!(judge(&Status::new(code, "")), Verdict::Again, "{code:?}");
        }
        assert_eq!(judge(&Status::unauthenticated("")), Verdict::Register);
        assert_eq!(judge(&Status::failed_precondition("")), Verdict::Over);
        assert_eq!(judge(&Status::invalid_argument("")), Verdict::Refused);
        let is_final = [
            Verdict::Again,
            Verdict::Register,
            Verdict::Over,
            Verdict::Refused,
        ]
        .map(Verdict::is_final);
        assert_eq!(is_final, [false, false, true, true]);
    }

    #[test]
    fn what_a_server_refuses_is_final_and_its_trouble_is_not() {
        for status in [400, 401, 403, 404, 410, 416, 451] {
            assert!(is_final_http(status), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(!is_final_http(status), "{status}");
        }
    }

    #[test]
    fn a_wait_that_the_coordinator_asks_for_is_kept() {
        let mut backoff = Backoff::new(Policy::CALL);
        for (told, wanted) in [(None, 200), (Some("7000"), 7000), (Some("1"), 800)] {
            let mut busy = Status::resource_exhausted("too many");
            if let Some(told) = told {
                let value = told.parse().expect("a value");
                busy.metadata_mut().insert(PASSES_AFTER, value);
            }
            let least = passes_after(&busy).unwrap_or_default();
            assert_eq!(backoff.take_for(least).as_millis(), wanted, "{told:?}");
        }
    }

    #[test]
    fn a_wait_that_no_clock_could_count_is_an_hour() {
        let hour = Duration::from_secs(3600);
        for told in ["3600001", "18446744073709551615"] {
            let mut busy = Status::resource_exhausted("too many");
            let value = told.parse().expect("a value");
            busy.metadata_mut().insert(PASSES_AFTER, value);
            assert_eq!(passes_after(&busy), Some(hour), "{told}");
        }
    }

    #[tokio::test]
    async fn a_call_goes_on_through_trouble_and_ends_with_the_first_final_answer() {
        for (last, is_refused) in [
            (Ok(7), false),
            (Err(Status::not_found("over")), true),
            (Err(Status::permission_denied("no")), true),
        ] {
            let mut answers = [
                Err(Status::unavailable("away")),
                Err(Status::unauthenticated("register again")),
                last,
                Err(Status::internal("a try too many")),
            ]
            .into_iter();
            let answer = until_answered(|| {
                let next = answers.next().expect("an answer");
                async move { next }
            })
            .await;
            assert_eq!(answer.is_err(), is_refused, "{answer:?}");
            assert_eq!(answers.len(), 1);
        }
    }
}
