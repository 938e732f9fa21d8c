//! Ends a training process whose lease is over.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use qlora_proto::clock::Moment;

/// Ends the process when its lease is over, whatever the agent does meanwhile: another worker may
/// begin then.
pub struct Watchdog(mpsc::Sender<Moment>);

impl Watchdog {
    /// The time begins when the first lease is heard of.
    pub fn start() -> Self {
        let (sender, leases) = mpsc::channel();
        std::thread::spawn(move || {
            if is_over(&leases, Moment::now) {
                eprintln!("the lease is over and nobody renewed it: the training process ends");
                std::process::exit(1);
            }
        });
        Self(sender)
    }

    pub fn renew(&self, left: Duration) {
        let _ = self.0.send(Moment::now() + left);
    }
}

/// Waits until the last of `leases` is over, by the clock `now`; false where nobody is left to
/// renew it.
fn is_over(leases: &Receiver<Moment>, now: impl Fn() -> Moment) -> bool {
    let Ok(mut until) = leases.recv() else {
        return false;
    };
    while let Some(nap) = until.nap(now()) {
        match leases.recv_timeout(nap) {
            Ok(later) => until = later,
            Err(RecvTimeoutError::Disconnected) => return false,
            // By the clock of leases more may have passed than by the timer.
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_lease_ends_with_the_last_that_was_heard_of_and_while_the_machine_sleeps() {
        let (began, hour) = (Moment::now(), Duration::from_secs(3600));
        let (sender, leases) = mpsc::channel();
        for lease in [began + hour, began + 2 * hour] {
            sender.send(lease).expect("a listener");
        }
        let looks = Cell::new(0);
        // Before the third look the machine sleeps longer than the first lease, then longer than
        // the second.
        let clock = || {
            looks.set(looks.get() + 1);
            match looks.get() {
                1 | 2 => began,
                3 => began + hour + Duration::from_secs(1),
                _ => began + 3 * hour,
            }
        };
        assert!(is_over(&leases, clock));
        assert_eq!(looks.get(), 4);
        // Without an agent the process ends by its stdin.
        sender.send(began + hour).expect("a listener");
        drop(sender);
        assert!(!is_over(&leases, || began));
    }
}
