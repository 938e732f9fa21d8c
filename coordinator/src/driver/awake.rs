//! How long the driver missed events since its last look, because it stood still or the machine
//! slept.
//!
//! Leases count on the steady clock, which stands still during a sleep. So a sleep takes nothing
//! from a lease. Only time on the steady clock during which nobody was heard is given back.

use std::time::Duration;

use qlora_proto::clock::{Moment, steady};

/// When the driver last looked about, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awake {
    steady: Duration,
    all: Moment,
}

/// Time in which nobody was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missed {
    /// On the steady clock, beyond the beat: every lease is to be extended by as much.
    pub still: Duration,
    /// Time that the machine slept, in which the steady clock stood still too.
    pub slept: Duration,
}

impl Awake {
    pub fn now() -> Self {
        Self {
            steady: steady(),
            all: Moment::now(),
        }
    }

    /// What was missed between this look and the one at `now`, which comes after `beat` where
    /// nothing is.
    pub fn missed(self, now: Self, beat: Duration) -> Missed {
        let steady = now.steady.saturating_sub(self.steady);
        let slept = now.all.since(self.all).saturating_sub(steady);
        Missed {
            still: steady.saturating_sub(beat),
            slept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_told_apart_from_a_stall_and_is_not_counted_twice() {
        let began = Awake::now();
        let beat = Duration::from_millis(500);
        let hour = Duration::from_secs(3600);
        for (stood, slept) in [
            (beat, Duration::ZERO),
            (4 * beat, Duration::ZERO),
            (beat, hour),
            (4 * beat, hour),
        ] {
            let now = Awake {
                steady: began.steady + stood,
                all: began.all + stood + slept,
            };
            assert_eq!(
                began.missed(now, beat),
                Missed {
                    still: stood - beat,
                    slept
                }
            );
        }
    }
}
