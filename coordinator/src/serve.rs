//! Starts everything in order, serves, and stops in order.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use qlora_access::Token;
use qlora_engine::Limits;
use qlora_store::{
    ArtifactStore, Candidate, Database, JobStore, Owner, SqliteStore, StoreError, Stored,
};
use qlora_telemetry::{Logs, Program};
use tokio::signal::unix::{SignalKind, signal};

use crate::basis::Basis;
use crate::bound_address::BoundAddress;
use crate::cli::Cli;
use crate::doors::{self, Doors, Hosts};
use crate::error::{CallError, StartError};
use crate::instruments::Instruments;
use crate::listen::{self, Bounds};
use crate::secured::{self, Secured};
use crate::services::{self, Services};
use crate::sessions::Sessions;
use crate::standby::{self, Listening, Won};
use crate::{artifacts, cleaning, page, random, tokens};

/// How often gauges are read for an OTLP receiver.
const REFRESH: Duration = Duration::from_secs(5);
/// How long calls may go on after a signal to stop.
const GRACE: Duration = Duration::from_secs(2);

/// What a start works with, whichever store holds the jobs.
struct Start {
    cli: Cli,
    folder: PathBuf,
    token: Token,
    tls: Secured,
    bounds: Bounds,
    registry: prometheus::Registry,
}

/// Where jobs are kept.
enum Keeping {
    Alone(SqliteStore),
    Shared(Database),
}

/// Comes with a signal to stop.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the coordinator until a signal stops it.
pub async fn run(cli: Cli) -> Result<(), StartError> {
    let given = cli
        .token_file
        .as_deref()
        .map(Token::read_strong)
        .transpose()?;
    let folder = cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let sources = secured::sources(&cli, &folder)?;
    let database = cli.database()?;
    let program = Program {
        name: "qlora-coordinator",
        version: env!("CARGO_PKG_VERSION"),
    };
    let telemetry = qlora_telemetry::start(program, Logs::Info, true)?;
    if let Some(exposure) = cli.token_file.as_deref().and_then(Token::exposure) {
        tracing::warn!("{exposure}");
    }
    let tls = Secured::start(sources)?;
    let bounds = Bounds::of(listen::raise_descriptors());
    let registry = telemetry.registry.clone().unwrap_or_default();
    // The lock of its own store tells whether the folder is another coordinator's: before a token
    // is made in it.
    let keeping = match database {
        None => Keeping::Alone(SqliteStore::open(&folder).await?),
        Some(database) => {
            make_folder(&folder)?;
            Keeping::Shared(database)
        }
    };
    let setup = Start {
        token: given.map_or_else(|| Token::keep(&folder), Ok)?,
        cli,
        folder,
        tls,
        bounds,
        registry,
    };
    match keeping {
        Keeping::Alone(store) => alone(&setup, store).await,
        Keeping::Shared(database) => among_others(&setup, database).await,
    }
}

/// It holds what people submit, and the token: its owner's alone.
fn make_folder(folder: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StoreError::Folder {
            path: folder.into(),
            source,
        })
}

/// The state folder is this coordinator's, and nobody else's.
async fn alone(setup: &Start, store: SqliteStore) -> Result<(), StartError> {
    let stored = store.load().await?;
    let artifacts = open(setup, &stored).await?;
    let services = start(setup, Arc::new(store), (stored, artifacts)).await?;
    // From here on, since whoever learns the address below may ask to stop at once.
    let stop = shutdown_signal()?;
    let bound = bind_address(setup).await?;
    lead(setup, services, bound, stop).await
}

/// Others may lead with the same database: this one waits until none does, and ends as soon as it
/// is not the leader any more.
async fn among_others(setup: &Start, database: Database) -> Result<(), StartError> {
    let mut stop = shutdown_signal()?;
    let bound = bind_address(setup).await?;
    let advertised = setup.cli.advertised(bound.address);
    let candidate = Candidate::new(database);
    let accepts = async |owner: Owner| {
        let place = setup.cli.artifacts.as_ref();
        artifacts::check(place, &setup.folder, owner).await
    };
    let listening = listening(setup, &bound);
    let waiting = standby::wait(candidate, listening, &advertised, accepts, &mut stop);
    let Some(Won { store, is_takeover }) = waiting.await? else {
        return Ok(());
    };
    let store = Arc::new(*store);
    let leading = async {
        let read = async { Ok(store.load().await?) };
        let open = async |stored: &Stored| open(setup, stored).await;
        let state = if is_takeover {
            let listening = self::listening(setup, &bound);
            standby::until_open(listening, read, open, &mut stop).await?
        } else {
            let stored = read.await?;
            let artifacts = open(&stored).await?;
            Some((stored, artifacts))
        };
        let Some(state) = state else {
            return Ok(());
        };
        let services = start(setup, store.clone(), state).await?;
        lead(setup, services, bound, stop).await
    };
    tokio::select! {
        ended = leading => ended,
        // Connections end with this: a worker that is told nothing trains on, and finds the next
        // leader.
        fault = store.lost() => Err(fault.into()),
    }
}

/// How this coordinator is called before it leads.
fn listening<'a>(setup: &Start, bound: &'a BoundAddress) -> Listening<'a> {
    Listening {
        bound,
        bounds: setup.bounds,
        tls: setup.tls.configs.clone(),
    }
}

async fn bind_address(setup: &Start) -> Result<BoundAddress, StartError> {
    let cli = &setup.cli;
    let default = || Token::path(&setup.folder);
    let token_file = cli.token_file.clone().unwrap_or_else(default);
    BoundAddress::bind(
        cli.listen,
        cli.address_file.clone(),
        &setup.token,
        setup.tls.wires.clone(),
        &token_file,
    )
    .await
}

/// Opens the artifacts that the state needs.
async fn open(setup: &Start, stored: &Stored) -> Result<ArtifactStore, StartError> {
    let place = setup.cli.artifacts.as_ref();
    Ok(artifacts::open(place, &setup.folder, &stored.owner()).await?)
}

/// Starts the driver on the state.
async fn start<S: JobStore>(
    setup: &Start,
    store: Arc<S>,
    (stored, artifacts): (Stored, ArtifactStore),
) -> Result<Services<S>, StartError> {
    let limits = Limits {
        lease: setup.cli.lease.as_millis() as u64,
        max_running_per_user: setup.cli.max_running_per_user,
        max_queued_per_user: setup.cli.max_queued_per_user,
        ..Limits::default()
    };
    let seed = random::seed().map_err(|e| CallError::Random(e.to_string()));
    let basis = Basis {
        store,
        stored,
        artifacts,
        token: setup.token.clone(),
        limits,
        seed: seed.map_err(|e| StartError::Serve(std::io::Error::other(e)))?,
        loopback_only: setup.cli.listen.ip().is_loopback(),
    };
    Ok(basis.start().await?)
}

/// Serves until `stop`.
async fn lead<S: JobStore>(
    setup: &Start,
    services: Services<S>,
    bound: BoundAddress,
    stop: Stop,
) -> Result<(), StartError> {
    let address = bound.address;
    let tokens = services.tokens.clone();
    let hosts = Hosts::new(address, qlora_access::names(), &setup.cli.allow_host);
    let sessions = Arc::<Sessions>::default();
    let asks_workers = setup.tls.asks_workers;
    let doors = Doors::new(hosts, tokens.clone(), sessions.clone(), asks_workers);
    tokio::spawn(tokens::keep(tokens, services.store.clone()));
    let router = router(services.clone(), setup.registry.clone(), doors, sessions).await?;
    let (listener, _record) = bound.last_listener()?;
    tracing::info!(%address, state = %setup.folder.display(), "serving; `qlora-ctl page` opens the page");
    tokio::spawn(keep_fresh(services.instruments.clone()));
    tokio::spawn(cleaning::run(services, setup.cli.retention()));
    // Workers hold their calls open and simply come back later.
    let configs = setup.tls.configs.clone();
    listen::serve(listener, router, setup.bounds, configs, stop, GRACE).await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for a signal to stop, from this call on: one that comes before it is awaited is kept.
fn shutdown_signal() -> Result<Stop, StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Serve);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }))
}

async fn keep_fresh(instruments: Instruments) {
    let mut interval = tokio::time::interval(REFRESH);
    loop {
        interval.tick().await;
        instruments.refresh().await;
    }
}

/// Everything that the coordinator answers, behind its doors.
pub async fn router<S: JobStore>(
    services: Services<S>,
    registry: prometheus::Registry,
    doors: Arc<Doors>,
    sessions: Arc<Sessions>,
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
        .merge(page::router(services, sessions));
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
