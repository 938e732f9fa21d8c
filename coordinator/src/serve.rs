//! Starts everything in order, serves, and stops in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use qlora_access::{Record, Token};
use qlora_engine::Limits;
use qlora_store::{ArtifactStore, JobStore, SqliteStore};
use qlora_telemetry::{Logs, Program};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cleaning;
use crate::cli::Cli;
use crate::doors::{self, Doors, Hosts};
use crate::driver::Driver;
use crate::error::{CallError, StartError};
use crate::instruments::Instruments;
use crate::listen::{self, Bounds};
use crate::page;
use crate::services::{self, Services};
use crate::tokens::{self, Tokens};
use crate::usage::Disk;

/// How often gauges are read for an OTLP receiver.
const REFRESH: Duration = Duration::from_secs(5);
/// How long calls may go on after a signal to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the coordinator until a signal stops it.
pub async fn run(cli: Cli) -> Result<(), StartError> {
    let given = cli
        .token_file
        .as_deref()
        .map(Token::read_strong)
        .transpose()?;
    let folder = cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let retention = cli.retention();
    let program = Program {
        name: "qlora-coordinator",
        version: env!("CARGO_PKG_VERSION"),
    };
    let telemetry = qlora_telemetry::start(program, Logs::Info, true)?;
    if let Some(exposure) = cli.token_file.as_deref().and_then(Token::exposure) {
        tracing::warn!("{exposure}");
    }
    let bounds = Bounds::of(listen::raise_descriptors());
    let store = Arc::new(SqliteStore::open(&folder).await?);
    let token = given.map_or_else(|| Token::keep(&folder), Ok)?;
    let tokens = Tokens::new(token.clone(), &store.tokens().await?);
    let artifacts = ArtifactStore::open(&folder.join("artifacts")).await?;
    let limits = Limits {
        lease: cli.lease.as_millis() as u64,
        max_running_per_user: cli.max_running_per_user,
        max_queued_per_user: cli.max_queued_per_user,
        ..Limits::default()
    };
    let driver = Driver::start(store.clone(), limits, artifacts.clone())
        .await
        .map_err(|e| StartError::Serve(std::io::Error::other(e)))?;
    let disk = Disk::of(store.clone(), artifacts.clone());
    let instruments = Instruments::start(driver.clone(), disk);
    let loopback_only = cli.listen.ip().is_loopback();
    let services = Services {
        driver,
        store,
        artifacts,
        instruments,
        tokens: tokens.clone(),
        loopback_only,
    };
    let registry = telemetry.registry.clone().unwrap_or_default();

    // From here on, since whoever learns the address below may ask to stop at once.
    let stop = shutdown_signal()?;
    let listener = TcpListener::bind(cli.listen)
        .await
        .map_err(|source| StartError::Bind {
            address: cli.listen,
            source,
        })?;
    let address = listener.local_addr().map_err(StartError::Serve)?;
    let doors = Doors::new(
        Hosts::new(address, qlora_access::names(), &cli.allow_host),
        tokens.clone(),
    );
    tokio::spawn(tokens::keep_days(tokens, services.store.clone()));
    let router = router(services.clone(), registry, doors).await?;
    // Before the address is known to anybody: whoever reads it finds the token.
    let _record = leave_record(
        address,
        &token,
        &cli.token_file.unwrap_or_else(|| Token::path(&folder)),
    );
    if let Some(path) = &cli.address_file {
        let fault = |source| StartError::AddressFile {
            path: path.clone(),
            source,
        };
        std::fs::write(path, address.to_string()).map_err(fault)?;
    }
    tracing::info!(%address, state = %folder.display(), "serving; `qlora-ctl page` opens the page");
    tokio::spawn(keep_fresh(services.instruments.clone()));
    tokio::spawn(cleaning::run(services, retention));
    // Workers hold their calls open and simply come back later.
    listen::serve(listener, router, bounds, stop, GRACE).await;
    tracing::info!("stopped");
    Ok(())
}

/// Leaves the token for programs of this user on this machine. Without it everything works for who
/// is given the token.
fn leave_record(address: SocketAddr, token: &Token, file: &Path) -> Option<Record> {
    Record::leave(address, token)
        .inspect_err(|e| {
            tracing::warn!(
                "programs on this machine will not find the token by themselves ({e}); give them --token-file {}",
                file.display()
            );
        })
        .ok()
}

/// Waits for a signal to stop, from this call on: one that comes before it is awaited is kept.
fn shutdown_signal() -> Result<impl Future<Output = ()>, StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Serve);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn keep_fresh(instruments: Instruments) {
    let mut interval = tokio::time::interval(REFRESH);
    loop {
        interval.tick().await;
        instruments.refresh().await;
    }
}

async fn router<S: JobStore>(
    services: Services<S>,
    registry: prometheus::Registry,
    doors: Arc<Doors>,
) -> Result<Router, StartError> {
    let grpc = services::routes(services.clone())
        .await
        .map_err(|e| StartError::Serve(std::io::Error::other(e)))?;
    let scrape = Scrape {
        registry,
        instruments: services.instruments.clone(),
    };
    let web = Router::new()
        .route("/metrics", get(metrics).with_state(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .merge(page::router(services));
    let known = grpc.into_axum_router().merge(web);
    Ok(known.layer(axum::middleware::from_fn_with_state(doors, doors::guard)))
}

#[derive(Clone)]
struct Scrape {
    registry: prometheus::Registry,
    instruments: Instruments,
}

async fn metrics(State(scrape): State<Scrape>) -> Response {
    scrape.instruments.refresh().await;
    let mut text = Vec::new();
    match TextEncoder::new().encode(&scrape.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            CallError::Invalid(e.to_string()).to_string(),
        )
            .into_response(),
    }
}
