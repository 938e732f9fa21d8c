//! Starts the driver and the services on a state that was read, with what removes artifacts: the same
//! for the program, the simulation and the fuzz target of messages.
//!
//! What they do not share is not here: sockets and doors, and cleaning by the hour.

use std::sync::Arc;

use qlora_access::Token;
use qlora_engine::Limits;
use qlora_store::{ArtifactStore, JobStore, StoreError, Stored};

use crate::cleaning::{self, Released};
use crate::driver::Driver;
use crate::instruments::Instruments;
use crate::services::Services;
use crate::tokens::Tokens;
use crate::usage::Disk;

/// What the services are started on.
pub struct Basis<S> {
    pub store: Arc<S>,
    /// What was read of `store`.
    pub stored: Stored,
    pub artifacts: ArtifactStore,
    /// The first token.
    pub token: Token,
    pub limits: Limits,
    /// Sessions and attempts' tokens come of it; nobody may guess it.
    pub seed: [u8; 32],
    /// It listens on loopback addresses only.
    pub loopback_only: bool,
}

impl<S: JobStore> Basis<S> {
    /// Starts the driver, which ends when every copy of the services is gone.
    ///
    /// # Errors
    /// The tokens that were given out cannot be read.
    pub async fn start(self) -> Result<Services<S>, StoreError> {
        let tokens = Tokens::new(self.token, &self.store.tokens().await?);
        let (store, artifacts) = (self.store, self.artifacts);
        let (released, going) = Released::of(artifacts.clone());
        let (stored, limits) = (self.stored, self.limits);
        let driver = Driver::start_with(store.clone(), stored, limits, released, self.seed);
        let disk = Disk::of(store.clone(), artifacts.clone());
        let services = Services {
            instruments: Instruments::start(driver.clone(), disk),
            driver,
            store,
            artifacts,
            tokens,
            loopback_only: self.loopback_only,
        };
        tokio::spawn(cleaning::remove_released(services.clone(), going));
        Ok(services)
    }
}
