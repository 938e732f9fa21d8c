//! The coordinator for `tests/simulation`: its driver, its services and its doors, on a store, a
//! folder, connections and random bits that the simulation brings.
//!
//! Nothing here is for anybody else. The program starts by `serve`, which adds what a simulated
//! machine has not: signals, a lock, sockets, TLS and hourly cleaning.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use qlora_access::Token;
use qlora_engine::{Engine, Limits};
use qlora_store::{ArtifactError, ArtifactStore, JobStore, StoreError};
use tokio::sync::watch;

use crate::basis::Basis;
use crate::doors::{Doors, Hosts};
use crate::driver::Handle;
use crate::error::StartError;
use crate::listen::{self, Bounds, Connection, Io};
use crate::serve;
use crate::sessions::Sessions;

/// Descriptors of a simulated machine.
const DESCRIPTORS: u64 = 1024;

/// What a start needs.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name by which it is called.
    pub name: &'a str,
    pub token: Token,
    /// For artifacts.
    pub folder: &'a Path,
    pub lease: Duration,
    /// Sessions and tokens come of it.
    pub seed: [u8; 32],
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum Unstarted {
    #[error("the store cannot be read, restart when it can: {0}")]
    Store(#[from] StoreError),
    #[error("the artifacts cannot be opened, restart when they can: {0}")]
    Artifacts(#[from] ArtifactError),
    #[error("the services did not start, restart them: {}", .0.text())]
    Services(StartError),
}

/// A coordinator that runs, until the runtime that it was started in ends.
#[derive(Clone)]
pub struct Coordinator {
    driver: Handle,
    router: Router,
    bounds: Bounds,
    told: watch::Receiver<bool>,
    _stopping: Arc<watch::Sender<bool>>,
}

impl Coordinator {
    /// Reads the state and starts the driver on it.
    ///
    /// # Errors
    /// The store cannot be read, or the folder cannot be used.
    pub async fn start(store: Arc<impl JobStore>, machine: Machine<'_>) -> Result<Self, Unstarted> {
        let stored = store.load().await?;
        let artifacts = ArtifactStore::open_in_place(machine.folder, &stored.owner()).await?;
        let limits = Limits {
            lease: machine.lease.as_millis() as u64,
            ..Limits::default()
        };
        let basis = Basis {
            store,
            stored,
            artifacts,
            token: machine.token,
            limits,
            seed: machine.seed,
            loopback_only: false,
        };
        let services = basis.start().await?;
        let (driver, tokens) = (services.driver.clone(), services.tokens.clone());
        let hosts = Hosts::new(machine.address, Vec::new(), &[machine.name.to_owned()]);
        let sessions = Arc::<Sessions>::default();
        let doors = Doors::new(hosts, tokens, sessions.clone(), false);
        let router = serve::router(services, prometheus::Registry::new(), doors, sessions)
            .await
            .map_err(Unstarted::Services)?;
        let (stopping, told) = watch::channel(false);
        Ok(Self {
            driver,
            router,
            bounds: Bounds::of(DESCRIPTORS),
            told,
            _stopping: Arc::new(stopping),
        })
    }

    /// Answers requests of a peer at `peer` that called `local`, until the connection ends.
    pub async fn converse(&self, stream: Box<dyn Io>, local: SocketAddr, peer: SocketAddr) {
        let connection = Connection::between(local, peer);
        let (router, told) = (self.router.clone(), self.told.clone());
        listen::converse(stream, router, connection, self.bounds, told).await;
    }

    /// Looks at what is durable.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.driver.read(look).await.map_err(io::Error::other)
    }
}
