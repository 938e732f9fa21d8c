//! Workers that have been away for long leave the list.

use qlora_engine::{Event, Worker};
use qlora_proto::DAY_MS;

use crate::clock::now;
use crate::driver::Handle;
use crate::error::CallError;

/// Milliseconds for which a worker that is away stays on the list.
const LONGEST_AWAY: u64 = 30 * DAY_MS;

/// Takes workers off the list that have been away for longer than [`LONGEST_AWAY`]. One that comes
/// back is new.
///
/// # Errors
/// The coordinator is stopping.
pub async fn take_off_the_gone(driver: &Handle) -> Result<(), CallError> {
    let since = now().wall.0.saturating_sub(LONGEST_AWAY);
    let gone = driver.read(move |engine| {
        // One that was drained stays, for as long as an operator does not remove it: its drain goes
        // with it.
        let is_gone = |w: &&Worker| {
            !w.connected && w.assigned.is_none() && w.drained.is_none() && w.last_seen.0 < since
        };
        let gone = engine.workers().filter(is_gone);
        gone.map(|w| w.name.clone()).collect::<Vec<_>>()
    });
    for name in gone.await? {
        match driver.event(Event::RemoveWorker { name }).await {
            // It has come back, or somebody was faster.
            Ok(_) | Err(CallError::Refused(_)) => {}
            Err(CallError::Stopping) => return Err(CallError::Stopping),
            Err(fault) => tracing::warn!("a worker that is gone stays on the list: {fault}"),
        }
    }
    Ok(())
}
