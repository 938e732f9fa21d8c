//! A stop that takes effect within a step, not only between two.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Result};

type Asked = dyn Fn() -> bool + Send + Sync;

/// Tells whether the run is to stop now.
///
/// It is asked several times a block, from whatever thread computes, so asking has to be cheap.
#[derive(Clone, Default)]
pub struct StopSignal(Vec<Arc<Asked>>);

impl StopSignal {
    /// A signal that is given as long as `asked` says so.
    pub fn new(asked: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(vec![Arc::new(asked)])
    }

    /// Given where either is.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// # Errors
    /// [`Error::Stopped`] where the signal is given.
    pub fn check(&self) -> Result<()> {
        if self.0.iter().any(|asked| asked()) {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopSignal({} sources)", self.0.len())
    }
}
