//! Where the faults of a device appear. This module does not know which driver reports them.

use tokio::sync::watch;

/// Where the fault of a device appears; it is broken then.
pub type Faults = watch::Receiver<Option<String>>;

/// Waits until the device that was offered is known to be broken, and says how; forever where its
/// driver tells nothing.
pub async fn broken(faults: &mut Option<Faults>) -> String {
    if let Some(faults) = faults
        && let Ok(fault) = faults.wait_for(Option::is_some).await
    {
        return fault.clone().unwrap_or_default();
    }
    std::future::pending().await
}
