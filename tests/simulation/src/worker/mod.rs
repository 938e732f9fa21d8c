//! A worker's machine, and the program on it.
//!
//! The program speaks as the agent does: by its client, its leases and its policy of retries, in the
//! order of its calls. What it does not share with the agent is written after it: the session, the
//! numbered reports, the uploads before a commit, and what a start hands in of an attempt before.
//! Its child trains by the clock.

mod attempt;
mod child;
mod delivery;
mod machine;
mod outbox;
mod session;
mod stopping;

use std::sync::Arc;
use std::time::Duration;

pub use self::machine::Machine;
use self::session::Session;
use crate::sights::Sight;

/// Until whoever watches over the program starts it again after it has given up.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs the program until `machine` dies; it is started again whenever it gives up.
///
/// # Errors
/// There is no client.
pub async fn run(machine: Arc<Machine>) -> turmoil::Result {
    machine.note("starts");
    loop {
        let client = machine.client()?;
        let session = Session::new(machine.clone(), client);
        let gave_up = machine.awake(session.run()).await;
        machine.witness.saw(Sight::WorkerRefused);
        machine.note(format!("gives up: {}", gave_up.message()));
        tokio::time::sleep(AGAIN).await;
    }
}
