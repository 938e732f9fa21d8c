//! The agent: keeps the lease, runs at most one attempt, and survives a coordinator that is away.
//!
//! While the coordinator cannot be reached, a running attempt goes on and its reports are kept.
//! Shortly before the coordinator would end the lease, the attempt is saved and stopped, so that
//! two machines never train one job.

mod attempt;
mod attempt_options;
mod coordinator_id;
mod current;
mod delivery;
mod exit_status;
mod fault;
mod handover;
mod instruments;
mod kept;
mod last_words;
mod outbox;
mod owned;
mod peers;
mod prepare;
mod process;
mod progress;
mod rendezvous;
mod saved;
mod session;
mod sessions;
mod spool;
mod stopping;
mod token_cache;
mod upload;
mod work;

pub use process::KEEP_MEMORY;

use std::process::ExitCode;
use std::sync::Arc;

use qlora_proto::Platform;
use qlora_telemetry::{Logs, Program};
use tokio::task::JoinSet;

use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::identity::Identity;
use crate::models::Allowed;
use crate::platform;
use qlora_client::Client;

/// Runs until a signal ends it.
pub fn run(args: AgentArgs) -> Result<ExitCode, WorkerError> {
    let runtime = tokio::runtime::Runtime::new().map_err(WorkerError::io("the runtime"))?;
    let ended = runtime.block_on(async {
        let program = Program {
            name: "qlora-worker",
            version: env!("CARGO_PKG_VERSION"),
        };
        let _telemetry = qlora_telemetry::start(program, Logs::Info, false)?;
        let identity = Identity::take(&args)?;
        let platforms = platform::offers(args.device.as_deref(), &args.label, &identity.folder)?;
        let client = args.client()?;
        let peers = peers::Peers {
            host: args.peer_address,
            port: args.peer_port,
        };
        let allowed = Allowed::of(&args.allow_models, &args.coordinator);
        let options = session::Options {
            once: args.once,
            patience: args.patience,
            peers,
            allowed,
        };
        serve(client, identity, platforms, options).await?;
        Ok(ExitCode::SUCCESS)
    });
    // A download that was given up may still be at work on a thread; nobody is to wait for it.
    runtime.shutdown_background();
    ended
}

/// Serves with every device of `platforms` as a worker of its own; one that breaks does not end the
/// others.
///
/// # Errors
/// The first fault, once all have ended.
async fn serve(
    client: Client,
    identity: Identity,
    platforms: Vec<Platform>,
    options: session::Options,
) -> Result<(), WorkerError> {
    let (identity, several) = (Arc::new(identity), platforms.len() > 1);
    let mut workers = JoinSet::new();
    let name = |i: usize| {
        if several {
            format!("{}-{i}", identity.name)
        } else {
            identity.name.clone()
        }
    };
    let sessions = Arc::new(sessions::Sessions::open(&identity.folder));
    let names: Vec<String> = (0..platforms.len()).map(name).collect();
    let mut left_over = handover::left_over(&identity.folder, &names);
    for (i, (name, platform)) in names.into_iter().zip(platforms).enumerate() {
        let kept = left_over
            .extract_if(.., |left| left.whose.worker == name)
            .collect();
        let options = session::Options {
            peers: options.peers.of_worker(i),
            ..options.clone()
        };
        let own = (name, identity.clone(), platform);
        let left = (kept::Kept::new(kept), sessions.clone());
        let session = session::Session::new((client.clone(), options), own, left);
        workers.spawn(session.run());
    }
    let mut fault = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended.unwrap_or_else(|e| {
            Err(WorkerError::Device(format!(
                "a worker ended by itself: {e}"
            )))
        });
        if let Err(e) = &ended
            && several
        {
            tracing::error!("a worker of this machine has ended: {e}");
        }
        fault = fault.and(ended);
    }
    fault
}
