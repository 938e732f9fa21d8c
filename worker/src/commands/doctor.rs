use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qlora_client::console;
use qlora_client::retry::root_cause;
use qlora_config::DeviceKind;
use qlora_proto::ListWorkersRequest;
use qlora_trainer::device::{HAS_CUDA, HAS_METAL};
use serde::Serialize;
use tonic::{Code, Status};

use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::identity;
use crate::models::Cache;
use crate::output::{print, print_json};
use crate::platform::{self, Accelerator};

/// Checks whether this machine can train and whether the coordinator takes its token, and says
/// what is missing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Doctor {}

const EXAMPLE: &str = "Example:
  qlora-worker doctor --coordinator https://10.0.0.5:7070 --ca ca.pem";

/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Training goes on without it.
    optional: bool,
    text: String,
    /// The way out of what is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Check {
    fn new(name: &'static str, ok: bool, optional: bool, text: impl Into<String>) -> Self {
        Self {
            name,
            ok,
            optional,
            text: text.into(),
            help: None,
        }
    }

    /// With what helps, where it is not ok.
    fn or(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into()).filter(|help| !self.ok && !help.is_empty());
        self
    }
}

impl Doctor {
    /// Prints every check; exit code 1 where one that matters fails.
    pub fn run(&self, agent: &AgentArgs, json: bool) -> Result<ExitCode, WorkerError> {
        let checks = checks(agent);
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
                print(format!(
                    "{mark:<3} {:<16} {}",
                    check.name,
                    console::line(&check.text)
                ))?;
                if let Some(help) = &check.help {
                    print(format!("    {:<16} help: {}", "", console::line(help)))?;
                }
            }
        }
        let is_fit = checks.iter().all(|check| check.ok || check.optional);
        Ok(if is_fit {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Bytes that checkpoints and tokenized rows need at the least, and a small model.
const LEAST_STATE: u64 = 1 << 30;
const LEAST_MODELS: u64 = 2 << 30;

/// Whether a folder that will be written to can be, and has room: tried with a file, which goes
/// again.
fn room(name: &'static str, folder: Result<PathBuf, String>, least: u64, place: &str) -> Check {
    let tried = folder.map_err(|fault| (fault, false)).and_then(|folder| {
        let fault = |e: std::io::Error| {
            let is_full = qlora_codes::Code::of_file(&e) == qlora_codes::Code::DiskFull;
            (format!("{}: {e}", folder.display()), is_full)
        };
        fs::create_dir_all(&folder).map_err(fault)?;
        let file = folder.join(format!(".doctor-{}", std::process::id()));
        let written = fs::write(&file, [0; 4096]);
        // Of a full disk it has the name.
        let removed = fs::remove_file(&file);
        written.and(removed).map_err(fault)?;
        Ok((platform::disk_free(&folder), folder))
    });
    let (ok, text) = match tried {
        Err((fault, is_full)) => {
            let help = if is_full {
                format!("free space there, or {place}")
            } else {
                place.to_owned()
            };
            return Check::new(name, false, false, fault).or(help);
        }
        Ok((free, folder)) => {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            let enough = free.is_none_or(|free| free >= least);
            let free = free.map_or("unknown space".into(), |free| {
                format!("{:.1} GiB", gib(free))
            });
            (enough, format!("free {free} at {}", folder.display()))
        }
    };
    let gib = least >> 30;
    Check::new(name, ok, false, text).or(format!("make room for {gib} GiB, or {place}"))
}

fn checks(args: &AgentArgs) -> Vec<Check> {
    let mut checks = platform_checks();
    for (name, found) in platform::accelerators() {
        let ok = found.is_ok();
        let line = |gpu: &Accelerator| {
            format!(
                "{} {} driver {}",
                gpu.name, gpu.compute_capability, gpu.driver
            )
        };
        let text = found.map_or_else(
            |e| e,
            |gpus| gpus.iter().map(line).collect::<Vec<_>>().join(", "),
        );
        checks.push(
            Check::new(name, ok, true, text)
                .or("training goes on without one; where this machine has such a device, install its driver"),
        );
    }
    checks.push(Check::new(
        "matmul",
        true,
        true,
        qlora_trainer::device::cpu_matmul(),
    ));
    let operations = qlora_trainer::device::operations(DeviceKind::Any);
    let (ok, text) = (
        operations.is_ok(),
        operations.unwrap_or_else(|e| e.to_string()),
    );
    let text = if ok {
        format!("{text}; a model may change attention and adapters, as its job's log says")
    } else {
        text
    };
    checks.push(
        Check::new("operations", ok, true, text).or("training goes on without such a device"),
    );
    for (name, feature, built) in [
        ("built for cuda", "cuda", HAS_CUDA),
        ("built for metal", "metal", HAS_METAL),
    ] {
        let check = Check::new(name, built, true, if built { "yes" } else { "no" });
        checks.push(check.or(format!(
            "to use one: cargo build --release -p qlora-worker --features {feature}"
        )));
    }
    if let Some(found) = qlora_trainer::device::cudnn() {
        let (ok, text) = (found.is_ok(), found.unwrap_or_else(|e| e));
        checks.push(
            Check::new("cuDNN", ok, true, text)
                .or("nothing needs it: attention is our own without it"),
        );
    }
    let state = identity::state_folder(args).map_err(|e| e.to_string());
    checks.push(room(
        "state",
        state,
        LEAST_STATE,
        "give --state-dir a folder that this user can write to",
    ));
    let models = Cache::open()
        .map(|cache| cache.folder().to_owned())
        .map_err(|e| e.to_string());
    checks.push(room(
        "models",
        models,
        LEAST_MODELS,
        "set QLORA_MODEL_DIR to a folder that this user can write to",
    ));
    checks.push(reach(args));
    checks
}

/// The CPU, the memory, and what is offered to jobs.
fn platform_checks() -> Vec<Check> {
    let all = match platform::offers(None, &[], &std::env::temp_dir()) {
        Ok(all) => all,
        Err(e) => return vec![Check::new("platform", false, false, e.to_string()).or(e.help())],
    };
    let p = all.first().cloned().unwrap_or_default();
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let memory = match p.device_memory_free {
        Some(free) => format!("{}, free {}", gib(p.memory), gib(free)),
        None => gib(p.memory),
    };
    let offers: Vec<_> = all
        .iter()
        .map(|p| format!("{} on {}", p.device_class().word(), p.device_name))
        .collect();
    vec![
        Check::new(
            "CPU",
            true,
            false,
            format!("{}, {} cores", p.cpu_model, p.cpu_cores),
        ),
        Check::new("memory", p.memory >= 1 << 30, false, memory)
            .or("training needs 1 GiB of memory at the least"),
        Check::new("offers", true, false, offers.join(", ")),
    ]
}

/// Asks the coordinator something as a worker would, so that the token is tried too. One that
/// nobody named may come later; one that refuses will go on refusing.
fn reach(args: &AgentArgs) -> Check {
    let address = &args.coordinator;
    let check = |ok, optional, text: String| Check::new("coordinator", ok, optional, text);
    let Asked { answer, token_help } = match ask(args) {
        Ok(asked) => asked,
        Err((fault, help)) => return check(false, false, fault).or(help),
    };
    match answer {
        Ok(()) => check(true, true, format!("{address} answers and takes the token")),
        Err(status) if status.code() == Code::Unauthenticated => check(
            false,
            false,
            format!("{address}: {}", first(status.message())),
        )
        .or(token_help),
        Err(status) => check(
            false,
            !args.names_coordinator(),
            format!("{address}: {}", root_cause(&status)),
        )
        .or("start one there with qlora-coordinator, or give --coordinator ADDR"),
    }
}

/// What the coordinator answered.
struct Asked {
    answer: Result<(), Status>,
    /// The way out where the token is refused.
    token_help: &'static str,
}

/// The answer to a call that only reads, or what kept it from being sent, with the way out.
fn ask(args: &AgentArgs) -> Result<Asked, (String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| (e.to_string(), String::new()))?;
    runtime.block_on(async {
        let mut client = args.client().map_err(|e| (e.to_string(), e.help()))?;
        let call = client.workers.list_workers(ListWorkersRequest {});
        let answer = match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            ))),
        };
        let said = answer.as_ref().err().map_or("", Status::message);
        let token_help = client.token_help(said);
        match client.link_fault() {
            Some(fault) if answer.is_err() => Err((
                format!("{}: {fault}", args.coordinator),
                fault.help().to_owned(),
            )),
            _ => Ok(Asked { answer, token_help }),
        }
    })
}

/// What a message says before it says what to do.
fn first(message: &str) -> &str {
    message.split("; ").next().unwrap_or(message)
}
