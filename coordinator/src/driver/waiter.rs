//! What wakes a session whose call is held.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::Notify;

/// The calls of one session that are held until something is new.
#[derive(Default)]
pub struct Waiter {
    pub woken: Notify,
    calls: AtomicU64,
}

impl Waiter {
    /// The number of a call that begins.
    pub fn begin(&self) -> u64 {
        self.calls.fetch_add(1, SeqCst) + 1
    }

    /// Whether no call has begun since the one of this number.
    pub fn is_last(&self, call: u64) -> bool {
        self.calls.load(SeqCst) == call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker whose attempt has ended gives up the call that it holds and makes another: it waits
    /// all the same.
    #[test]
    fn a_call_that_was_given_up_for_a_newer_one_does_not_take_its_worker_away() {
        let waiter = Waiter::default();
        let (first, second) = (waiter.begin(), waiter.begin());
        assert!(!waiter.is_last(first) && waiter.is_last(second));
    }
}
