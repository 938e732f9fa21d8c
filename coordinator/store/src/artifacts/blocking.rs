//! The bridge from async callers to the disk, which may make its caller wait.

use std::io;

use super::digest::Digest256;
use super::error::ArtifactError;

/// Runs `f` on a thread that may wait for the disk; `digest` names the artifact in an error.
///
/// # Errors
/// `f` panicked, or the runtime is shutting down.
pub(super) async fn blocking<T: Send + 'static>(
    digest: &Digest256,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArtifactError> {
    let ended = tokio::task::spawn_blocking(f).await;
    ended.map_err(|e| ArtifactError::Io {
        path: digest.as_str().into(),
        source: io::Error::other(e),
    })
}
