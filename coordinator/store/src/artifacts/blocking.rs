//! The bridge from async callers to the disk, which may make its caller wait.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::task::{JoinError, spawn_blocking};

use super::digest::Digest256;
use super::error::ArtifactError;

/// Whether whoever asks waits itself.
static IN_PLACE: AtomicBool = AtomicBool::new(false);

/// From now on all tasks of this process wait for the disk themselves. A simulation has one thread,
/// and what happens in it must not depend on how fast another is.
pub fn wait_in_place() {
    IN_PLACE.store(true, Relaxed);
}

/// Runs `f` on a thread that may wait for the disk.
///
/// # Errors
/// `f` panicked, or the runtime is shutting down.
pub(super) async fn on_thread<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if IN_PLACE.load(Relaxed) {
        return Ok(f());
    }
    spawn_blocking(f).await
}

/// Runs `f` on a thread that may wait for the disk; `digest` names the artifact in an error.
///
/// # Errors
/// `f` panicked, or the runtime is shutting down.
pub(super) async fn blocking<T: Send + 'static>(
    digest: &Digest256,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArtifactError> {
    let ended = on_thread(f).await;
    ended.map_err(|e| ArtifactError::Io {
        path: digest.as_str().into(),
        source: io::Error::other(e),
    })
}
