//! How an attempt is asked to stop, as in the agent.

use qlora_client::waits::come;
use qlora_proto::clock::Moment;
use qlora_proto::lease::Lease;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It saves first.
    Save,
    /// Nothing that it could save would be taken.
    AtOnce,
}

pub type Stops = watch::Receiver<Option<Urgency>>;

/// Waits until the attempt is asked to stop, `urgency` or more urgently.
pub async fn told_to(stops: &mut Stops, urgency: Urgency) {
    let _ = stops
        .wait_for(|asked| asked.is_some_and(|asked| asked >= urgency))
        .await
        .map(drop);
}

/// Waits until the lease that was told last is over.
pub async fn over(leases: &mut watch::Receiver<Option<Lease>>) {
    loop {
        let ends = leases.borrow_and_update().map(|lease| lease.ends());
        tokio::select! {
            biased;
            () = come(ends, Moment::now) => return,
            changed = leases.changed() => if changed.is_err() {
                return come(ends, Moment::now).await;
            },
        }
    }
}
