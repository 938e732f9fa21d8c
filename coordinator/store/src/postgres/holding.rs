//! An act outside of the database that nobody else may lead before the end of.

use std::pin::pin;
use std::time::Duration;

use sqlx::{Postgres, Transaction};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::database::{PATIENCE, within};

/// How often the server hears of a transaction that waits for an act. With the time for the answer it
/// is as long as the server bears one that is idle, and no longer.
const BEAT: Duration = Duration::from_secs(1);

/// Does `act` to its end, and holds what `held` holds for as long. What it came to, and whether it
/// was held until then.
pub(super) async fn hold<T>(
    mut held: Transaction<'static, Postgres>,
    act: impl Future<Output = T>,
) -> (T, Result<(), sqlx::Error>) {
    let mut act = pin!(act);
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_held = Ok(());
    loop {
        tokio::select! {
            done = &mut act => {
                // It has changed nothing. Where the server has ended it before, it says so.
                let ended = within(PATIENCE, held.rollback()).await;
                return (done, is_held.and(ended));
            }
            _ = beat.tick(), if is_held.is_ok() => {
                let heard = sqlx::query("SELECT 1").execute(&mut *held);
                is_held = within(PATIENCE, heard).await.map(drop);
            }
        }
    }
}
