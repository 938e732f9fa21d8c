//! The other programs of qlora, which lie beside this one: found, started in the background, and
//! stopped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qlora_client::Fault;
use qlora_codes::Code;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::context::Context;
use crate::error::CtlError;

/// How long a program may take to come up.
pub const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a program may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Workers that are started one after another before quickstart gives up.
const WORKERS: usize = 3;
pub const POLL: Duration = Duration::from_millis(50);

/// A program that lies beside this one.
pub fn sibling(name: &str) -> Result<PathBuf, CtlError> {
    let own = std::env::current_exe().map_err(CtlError::io("this program"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(CtlError::Process {
        what: name.into(),
        fault: format!("does not lie beside {}", own.display()),
        help: "build all programs: cargo build --release".into(),
    })
}

/// What `qlora-worker` prints when it is called with `args`; it knows the formats of models and
/// where they lie.
pub async fn worker_says(args: &[&str]) -> Result<String, CtlError> {
    let mut command = Command::new(sibling("qlora-worker")?);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(CtlError::io("qlora-worker"))?;
    if !output.status.success() {
        return Err(said(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The fault that the worker told as JSON, in the form of this program's.
fn said(stderr: &str) -> CtlError {
    let told = stderr
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = |key: &str| {
        told.as_ref()
            .and_then(|told| told["error"][key].as_str())
            .map(str::to_owned)
    };
    let message = of("message").unwrap_or_else(|| stderr.trim().to_owned());
    CtlError::NoModel {
        message,
        help: of("help").unwrap_or_default(),
        code: of("code"),
    }
}

/// The coordinator and the worker of this quickstart.
pub struct Programs {
    pub coordinator: Child,
    pub worker: Child,
    pub address: String,
    folder: PathBuf,
}

impl Programs {
    pub async fn start(folder: &Path, port: u16) -> Result<Self, CtlError> {
        let address_file = folder.join("address");
        let _ = std::fs::remove_file(&address_file);
        let mut coordinator = background("qlora-coordinator", folder, "coordinator.log")?;
        coordinator
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--address-file")
            .arg(&address_file);
        coordinator
            .arg("--state-dir")
            .arg(folder.join("coordinator"))
            .env_remove("QLORA_TOKEN_FILE");
        let mut coordinator = coordinator
            .spawn()
            .map_err(CtlError::io("qlora-coordinator"))?;
        let deadline = Instant::now() + START_PATIENCE;
        let address = loop {
            if let Ok(text) = std::fs::read_to_string(&address_file)
                && !text.is_empty()
            {
                break text;
            }
            let ended = coordinator
                .try_wait()
                .map_err(CtlError::io("qlora-coordinator"))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(fault(
                    "qlora-coordinator",
                    "did not come up",
                    &folder.join("coordinator.log"),
                ));
            }
            tokio::time::sleep(POLL).await;
        };
        let worker = start_worker(folder, &address)?;
        Ok(Self {
            coordinator,
            worker,
            address,
            folder: folder.to_owned(),
        })
    }

    /// Waits until the coordinator ends, which it should not. A worker that ends is followed by
    /// another, which goes on from the job's last checkpoint.
    pub async fn died(&mut self, context: &Context) -> CtlError {
        for _ in 0..WORKERS {
            tokio::select! {
                _ = self.coordinator.wait() => {
                    return fault("qlora-coordinator", "ended before the job did", &self.folder.join("coordinator.log"));
                }
                _ = self.worker.wait() => {}
            }
            context
                .say("the worker ended; starting another, which goes on from the last checkpoint");
            match start_worker(&self.folder, &self.address) {
                Ok(worker) => self.worker = worker,
                Err(e) => return e,
            }
        }
        fault(
            "qlora-worker",
            "ended again and again",
            &self.folder.join("worker.log"),
        )
    }

    /// Leaves both running.
    pub fn leave(self) {
        // Dropped children are killed.
        std::mem::forget((self.coordinator, self.worker));
    }

    pub async fn stop(&mut self) {
        for child in [&mut self.worker, &mut self.coordinator] {
            terminate(child);
            if tokio::time::timeout(STOP_PATIENCE, child.wait())
                .await
                .is_err()
            {
                let _ = child.kill().await;
            }
        }
    }
}

/// Where the coordinator of this quickstart keeps its token: the person's own QLORA_TOKEN is for
/// another one.
pub fn token_file(folder: &Path) -> PathBuf {
    folder.join("coordinator/token")
}

fn start_worker(folder: &Path, address: &str) -> Result<Child, CtlError> {
    let mut worker = background("qlora-worker", folder, "worker.log")?;
    worker.args([
        "--coordinator",
        address,
        "--device",
        "cpu",
        "--name",
        "quickstart",
    ]);
    worker
        .arg("--state-dir")
        .arg(folder.join("worker"))
        .arg("--token-file")
        .arg(token_file(folder));
    worker.spawn().map_err(CtlError::io("qlora-worker"))
}

/// Asks a program to stop.
fn terminate(child: &Child) {
    let pid = child
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(id as i32));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

pub fn pid(child: &Child) -> String {
    child.id().map_or_else(|| "-".into(), |id| id.to_string())
}

/// A fault of a program, with what its log says of the cause.
pub fn fault(what: &str, text: &str, log: &Path) -> CtlError {
    let words = std::fs::read_to_string(log).unwrap_or_default();
    let Fault {
        code,
        message,
        help,
        ..
    } = cause(&words);
    let place = format!("its log is {}", log.display());
    CtlError::Process {
        what: what.into(),
        fault: format!("{text}: {message}"),
        help: match help.as_str() {
            // The way out is an option of the coordinator, which quickstart calls otherwise.
            _ if code == Code::Listen.id() => {
                "give another --port, or none for any that is free".into()
            }
            "" => place,
            help => format!("{help}; {place}"),
        },
    }
}

/// The last fault that a program has told in the form of all programs, else its last line.
fn cause(words: &str) -> Fault {
    let starts = words.match_indices("error[Q").map(|(at, _)| at);
    let last = starts
        .filter(|at| *at == 0 || words[..*at].ends_with('\n'))
        .last();
    let told = last.and_then(|at| Fault::parse(&words[at..]).into_iter().next());
    told.unwrap_or_else(|| Fault {
        message: words.lines().last().unwrap_or_default().to_owned(),
        ..Fault::default()
    })
}

/// A program that does not hear a Ctrl-C meant for us, whose output goes to a file, and that ends with
/// what holds it.
fn background(name: &str, folder: &Path, log: &str) -> Result<Command, CtlError> {
    let path = folder.join(log);
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(CtlError::io(&path))?;
    let copy = log.try_clone().map_err(CtlError::io(&path))?;
    let mut command = Command::new(sibling(name)?);
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .process_group(0)
        .kill_on_drop(true)
        .env_remove("QLORA_STATE_DIR")
        .env_remove("QLORA_TOKEN");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_did_not_come_up_is_told_with_its_cause() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let told = |words: &str| {
            std::fs::write(&log, words).expect("a log");
            let fault = fault("qlora-coordinator", "did not come up", &log);
            (fault.to_string(), fault.help())
        };
        let (said, help) =
            told("INFO start\nerror[Q0405]: 127.0.0.1:7070 is in use\n  help: take a free one\n");
        assert_eq!(
            said,
            "qlora-coordinator did not come up: 127.0.0.1:7070 is in use"
        );
        assert!(
            help.contains("--port") && !help.contains("a free one"),
            "{help}"
        );
        let (said, help) = told("INFO start\na panic\n");
        assert!(
            said.ends_with("a panic") && help.contains("its log is"),
            "{said}"
        );
    }

    #[test]
    fn what_the_worker_says_becomes_a_message_and_its_help() {
        let fault = said(
            "warning: x\n{\"v\": 1, \"error\": {\"code\": \"Q0518\", \"message\": \"`x` is odd\", \"help\": \"take y\"}}\n",
        );
        assert_eq!(fault.to_string(), "`x` is odd");
        assert_eq!(
            (fault.faults()[0].code.as_str(), fault.help().as_str()),
            ("Q0518", "take y")
        );
        let panic = said("panic");
        assert_eq!(
            (panic.to_string().as_str(), panic.faults()[0].code.as_str()),
            ("panic", "Q0302")
        );
    }
}
