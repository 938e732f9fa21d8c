//! `qlora-worker doctor`: can this machine train, and what is missing.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use qlora_client::retry::root_cause;
use qlora_client::{Client, console};
use qlora_proto::ListWorkersRequest;
use serde::Serialize;
use tonic::{Code, Status};

use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::identity;
use crate::models::Cache;
use crate::output::{print, print_json};
use crate::platform::{self, Accelerator};

/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Training goes on without it.
    optional: bool,
    text: String,
}

/// Prints every check; exit code 1 where one that matters fails.
pub fn run(args: &AgentArgs, json: bool) -> Result<ExitCode, WorkerError> {
    let checks = checks(args);
    if json {
        print_json(&serde_json::json!({ "v": 1, "checks": checks }))?;
    } else {
        for check in &checks {
            let mark = if check.ok {
                "ok"
            } else if check.optional {
                "--"
            } else {
                "no"
            };
            print(format!("{mark:<3} {:<16} {}", check.name, console::line(&check.text)))?;
        }
    }
    let is_fit = checks.iter().all(|check| check.ok || check.optional);
    Ok(if is_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Bytes that checkpoints and tokenised rows need at the least, and a small model.
const LEAST_STATE: u64 = 1 << 30;
const LEAST_MODELS: u64 = 2 << 30;

/// Whether a folder that will be written to can be, and has room: tried with a file, which goes again.
fn room(name: &'static str, folder: Result<PathBuf, String>, least: u64) -> Check {
    let tried = folder.and_then(|folder| {
        let fault = |e: std::io::Error| format!("{}: {e}", folder.display());
        fs::create_dir_all(&folder).map_err(fault)?;
        let file = folder.join(format!(".doctor-{}", std::process::id()));
        fs::write(&file, [0; 4096]).map_err(fault)?;
        fs::remove_file(&file).map_err(fault)?;
        Ok((platform::disk_free(&folder), folder))
    });
    let (ok, text) = match tried {
        Err(fault) => (false, fault),
        Ok((free, folder)) => {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            let enough = free.is_none_or(|free| free >= least);
            let few = if enough { String::new() } else { format!("; {:.0} GiB are needed", gib(least)) };
            let free = free.map_or("unknown space".into(), |free| format!("{:.1} GiB", gib(free)));
            (enough, format!("free {free} at {}{few}", folder.display()))
        }
    };
    Check { name, ok, optional: false, text }
}

fn checks(args: &AgentArgs) -> Vec<Check> {
    let folder = std::env::temp_dir();
    let mut checks = Vec::new();
    match platform::offers(None, &[], &folder) {
        Ok(all) => {
            let p = all.first().cloned().unwrap_or_default();
            let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
            checks.push(Check {
                name: "processor",
                ok: true,
                optional: false,
                text: format!("{}, {} cores", p.cpu_model, p.cpu_cores),
            });
            let enough = p.memory >= 1 << 30;
            checks.push(Check {
                name: "memory",
                ok: enough,
                optional: false,
                text: match p.device_memory_free {
                    Some(free) => format!("{}, free {}", gib(p.memory), gib(free)),
                    None => gib(p.memory),
                },
            });
            checks.push(Check {
                name: "offers",
                ok: true,
                optional: false,
                text: all
                    .iter()
                    .map(|p| format!("{} on {}", p.device_class().word(), p.device_name))
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
        Err(e) => checks.push(Check { name: "platform", ok: false, optional: false, text: e.to_string() }),
    }
    for (name, found) in platform::accelerators() {
        let ok = found.is_ok();
        let line = |gpu: &Accelerator| format!("{} {} driver {}", gpu.name, gpu.compute_capability, gpu.driver);
        let text = found.map_or_else(|e| e, |gpus| gpus.iter().map(line).collect::<Vec<_>>().join(", "));
        checks.push(Check { name, ok, optional: true, text });
    }
    checks.push(Check {
        name: "products",
        ok: true,
        optional: true,
        text: qlora_trainer::device::processor_products().into(),
    });
    for (name, feature, built) in
        [("built for cuda", "cuda", cfg!(feature = "cuda")), ("built for metal", "metal", cfg!(feature = "metal"))]
    {
        let no = || format!("no; cargo build --release -p qlora-worker --features {feature}");
        let text = if built { "yes".into() } else { no() };
        checks.push(Check { name, ok: built, optional: true, text });
    }
    if let Some(found) = qlora_trainer::device::cudnn() {
        let (ok, text) = (found.is_ok(), found.unwrap_or_else(|e| format!("{e}; attention is our own")));
        checks.push(Check { name: "cuDNN", ok, optional: true, text });
    }
    let state = identity::state_folder(args).map_err(|e| e.to_string());
    checks.push(room("state", state, LEAST_STATE));
    let models = Cache::open().map(|cache| cache.folder().to_owned()).map_err(|e| e.to_string());
    checks.push(room("models", models, LEAST_MODELS));
    checks.push(reach(args));
    checks
}

/// Asks the coordinator something as a worker would, so that the token is tried too. One that nobody named may come later;
/// one that refuses will go on refusing.
fn reach(args: &AgentArgs) -> Check {
    let address = &args.coordinator;
    let check = |ok, optional, text: String| Check { name: "coordinator", ok, optional, text };
    let (answer, token_help) = match ask(args) {
        Ok(answer) => answer,
        Err(e) => return check(false, false, e),
    };
    match answer {
        Ok(()) => check(true, true, format!("{address} answers and takes the token")),
        Err(status) if status.code() == Code::Unauthenticated => {
            check(false, false, format!("{address}: {}; {token_help}", first(status.message())))
        }
        Err(status) => check(false, !args.names_coordinator(), format!("{address}: {}", root_cause(&status))),
    }
}

/// The answer to a call that only reads and the way out where the token is refused, or what kept it from being sent.
fn ask(args: &AgentArgs) -> Result<(Result<(), Status>, &'static str), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let client = Client::new(&args.coordinator, args.token_file.as_deref());
        let mut client = client.map_err(|e| format!("{e}; {}", e.help()))?;
        let call = client.workers.list_workers(ListWorkersRequest {});
        let answer = match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        Ok((answer, client.token_help()))
    })
}

/// What a message says before it says what to do.
fn first(message: &str) -> &str {
    message.split("; ").next().unwrap_or(message)
}
