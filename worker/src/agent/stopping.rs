//! How an attempt is asked to stop.

use tokio::sync::watch;

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
