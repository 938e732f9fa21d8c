//! Tracks for how long nothing could be stored, and logs it when it begins, now and then, and when
//! it is over.

use std::time::Duration;

use qlora_store::StoreError;
use tokio::time::Instant;

/// Wait before something is written again for which nobody waits.
const PAUSE: Duration = Duration::from_secs(1);
/// How often trouble that goes on is told: the log may lie on the same full disk.
const SAY: Duration = Duration::from_secs(60);

/// Writes that failed since the last that did not.
#[derive(Default)]
pub(super) struct Trouble(Option<Lasting>);

struct Lasting {
    began: Instant,
    said: Instant,
    newest: Instant,
    failed: u64,
}

impl Trouble {
    /// A write has failed.
    pub fn add(&mut self, fault: &StoreError) {
        let now = Instant::now();
        match &mut self.0 {
            None => {
                tracing::error!(
                    "nothing can be stored, and nothing that must be is acknowledged: {fault}"
                );
                self.0 = Some(Lasting {
                    began: now,
                    said: now,
                    newest: now,
                    failed: 1,
                });
            }
            Some(lasting) => {
                (lasting.newest, lasting.failed) = (now, lasting.failed + 1);
                if now.duration_since(lasting.said) >= SAY {
                    lasting.said = now;
                    let seconds = now.duration_since(lasting.began).as_secs();
                    tracing::error!("nothing can be stored for {seconds} s: {fault}");
                }
            }
        }
    }

    /// A write has succeeded.
    pub fn end(&mut self) {
        if let Some(Lasting { began, failed, .. }) = self.0.take() {
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(
                "state is stored again, after {seconds:.1} s and {failed} writes that failed"
            );
        }
    }

    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// When what nobody waits for may be tried again.
    pub fn until(&self) -> Option<Instant> {
        self.0.as_ref().map(|lasting| lasting.newest + PAUSE)
    }
}
