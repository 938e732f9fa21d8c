//! The agent: keeps the lease, runs at most one attempt, and survives a coordinator that is away.
//!
//! While the coordinator cannot be reached, a running attempt goes on and what it reports is kept; shortly before
//! the lease would end elsewhere, the attempt is saved and stopped, so that two machines never train one job.

mod attempt;
mod outbox;
mod peers;
mod prepare;
mod process;
mod progress;
mod session;
mod token_cache;
mod upload;
mod vitals;

pub use process::KEEP_MEMORY;

use std::process::ExitCode;

use qlora_telemetry::{Logs, Program};

use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::identity::Identity;
use crate::platform;
use qlora_client::Client;

/// Runs until a signal ends it.
pub fn run(args: AgentArgs) -> Result<ExitCode, WorkerError> {
    let runtime = tokio::runtime::Runtime::new().map_err(WorkerError::io("the runtime"))?;
    runtime.block_on(async {
        let program = Program { name: "qlora-worker", version: env!("CARGO_PKG_VERSION") };
        let _telemetry = qlora_telemetry::start(program, Logs::Info, false)?;
        let identity = Identity::take(&args)?;
        let platform = platform::probe(args.device.as_deref(), &args.label, &identity.folder)?;
        let client = Client::new(&args.coordinator, args.token_file.as_deref())?;
        let peers = peers::Peers { host: args.peer_address, port: args.peer_port };
        let manners = session::Manners { once: args.once, patience: args.patience, peers };
        session::Session::new(client, identity, platform, manners).run().await?;
        Ok(ExitCode::SUCCESS)
    })
}
