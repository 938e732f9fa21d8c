//! How long the engine waits, how often it tries again, and how much one user may ask for.

/// Times, in milliseconds, and numbers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A worker that is silent for this long has lost its attempt.
    pub lease: u64,
    /// Wait before the second attempt; doubles with each failure.
    pub backoff: u64,
    pub max_backoff: u64,
    /// How long a job that failed on a worker waits for another one that fits.
    pub elsewhere: u64,
    /// How long a job is left for a worker that has its model and was woken, before another one is
    /// given it.
    pub head_start: u64,
    /// Workers that may be lost one after another with a job that saves nothing; then it fails.
    pub max_lost: u32,
    /// Jobs of one owner that run at one time; none for any number.
    pub max_running_per_user: Option<u64>,
    /// Jobs of one owner that wait at one time: one more is not taken.
    pub max_queued_per_user: Option<u64>,
    /// Reports a second that all attempts together are asked for, about.
    pub reports_per_second: u64,
}

impl Limits {
    /// Milliseconds for which an attempt gathers what it has to report, where `running` attempts
    /// report; further workers of an attempt have little to report. However many they are, the coordinator has the same work, and each of their points
    /// arrives. It stays below half a lease: what gathers is gone with a worker.
    pub(crate) fn gather(self, running: usize) -> u64 {
        let share = running as u64 * 1000 / self.reports_per_second.max(1);
        share.min(self.lease / 2)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: 30_000,
            backoff: 2_000,
            max_backoff: 300_000,
            elsewhere: 600_000,
            head_start: 1_000,
            max_lost: 6,
            max_running_per_user: None,
            max_queued_per_user: None,
            reports_per_second: 2_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_share_the_reports_of_a_second_and_gather_for_half_a_lease_at_most() {
        let limits = Limits::default();
        let gathers = [0, 1, 200, 10_000, 1_000_000].map(|running| limits.gather(running));
        assert_eq!(gathers, [0, 0, 100, 5_000, 15_000]);
    }
}
