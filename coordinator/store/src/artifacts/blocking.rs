//! The bridge from async callers to the disk, which may make its caller wait.

use std::io;

use tokio::task::{JoinError, spawn_blocking};

use super::digest::Digest256;
use super::error::ArtifactError;

/// Who waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// A thread that may.
    Thread,
    /// The task that asks. A simulation has one thread, and what happens in it must not depend on
    /// how fast another is.
    Task,
}

impl Waits {
    /// Runs `f`, which may wait for the disk.
    ///
    /// # Errors
    /// `f` panicked, or the runtime is shutting down.
    pub async fn run<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Thread => spawn_blocking(f).await,
            Self::Task => Ok(f()),
        }
    }

    /// As [`Self::run`]; `digest` names the artifact in an error.
    ///
    /// # Errors
    /// `f` panicked, or the runtime is shutting down.
    pub async fn run_for<T: Send + 'static>(
        self,
        digest: &Digest256,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let ended = self.run(f).await;
        ended.map_err(|e| ArtifactError::Io {
            path: digest.as_str().into(),
            source: io::Error::other(e),
        })
    }
}
