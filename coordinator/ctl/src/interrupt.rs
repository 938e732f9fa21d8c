//! Ctrl-C and SIGTERM, which mean the same to a command that follows a job.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for either signal. From the first call on the process no longer ends by them.
pub async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! { _ = tokio::signal::ctrl_c() => {}, () = terminated => {} }
}
