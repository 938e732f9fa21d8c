//! How an attempt is asked to stop.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a child may take to break its step off, save and stop before it is ended. A chunk of
/// the loss over a large vocabulary takes seconds on a slow CPU, and what is saved may be gigabytes
/// on a slow disk.
const PATIENCE: Duration = Duration::from_secs(100);
/// How long a child that stops may say nothing. One that runs at all says so every two seconds, from
/// a thread of its own, so silence means a process that is frozen. One that runs and gets nowhere is
/// ended after [`PATIENCE`].
const SILENCE: Duration = Duration::from_secs(10);

/// How soon an attempt has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It saves first.
    Save,
    /// Nothing that it could save would be taken.
    AtOnce,
    /// The coordinator that answers is another one: nothing more is said of the attempt, and what
    /// it left is kept.
    Leave,
}

/// What an attempt is asked.
#[derive(Debug, Clone)]
pub struct Stopping {
    pub reason: String,
    pub urgency: Urgency,
    /// The job goes on, here or elsewhere; one that is cancelled does not.
    pub resumes: bool,
}

/// When a child that was asked to stop is ended as it is.
#[derive(Debug, Clone, Copy)]
pub struct StopBy {
    /// However busy it is.
    done: Instant,
    /// Unless it is heard.
    heard: Instant,
}

impl StopBy {
    /// Of a child that is asked at `now`.
    pub fn asked(now: Instant) -> Self {
        Self {
            done: now + PATIENCE,
            heard: now + SILENCE,
        }
    }

    /// It was heard at `now`.
    pub fn hear(&mut self, now: Instant) {
        self.heard = now + SILENCE;
    }

    /// Whether it has had all the time that there is, however much it still says.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.done
    }

    pub fn at(&self) -> Instant {
        self.done.min(self.heard)
    }

    /// Why it was ended, for the job's log.
    pub fn why(&self) -> String {
        let fault = if self.heard < self.done {
            format!("said nothing for {} s", SILENCE.as_secs())
        } else {
            format!("was not done after {} s", PATIENCE.as_secs())
        };
        format!(
            "the training process {fault} after it was asked to stop, and was ended; the job's last checkpoint counts"
        )
    }
}

/// Hears what the attempt is asked.
pub type Stops = watch::Receiver<Option<Stopping>>;

impl Stopping {
    /// Of an attempt that stops because another worker of it does.
    pub fn with_another() -> Self {
        Self {
            reason: "another worker of the attempt stops".into(),
            urgency: Urgency::Save,
            resumes: true,
        }
    }
}

/// Waits until the attempt is asked to stop, `urgency` or more urgently.
pub async fn told_to(stopping: &mut Stops, urgency: Urgency) {
    let so_urgent =
        |stopping: &Option<Stopping>| stopping.as_ref().is_some_and(|s| s.urgency >= urgency);
    // Where the session is gone, nobody is left for whom the attempt could go on.
    let _ = stopping.wait_for(so_urgent).await.map(drop);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_heard_has_all_the_time_and_one_that_is_not_a_part_of_it() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut by = StopBy::asked(now);
        assert_eq!(by.at(), now + SILENCE);
        assert!(by.why().contains("said nothing for 10 s"), "{}", by.why());
        by.hear(now + 8 * second);
        assert_eq!(by.at(), now + 18 * second);
        by.hear(now + 99 * second);
        assert_eq!(by.at(), now + PATIENCE);
        assert!(!by.is_over(now + 99 * second) && by.is_over(now + PATIENCE));
        // One that never stops talking gains nothing by it.
        by.hear(now + PATIENCE);
        assert!(by.is_over(now + PATIENCE));
        assert!(by.why().contains("not done after 100 s"), "{}", by.why());
    }
}
