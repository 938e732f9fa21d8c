use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use qlora_config::{Layers, QUICKSTART, QUICKSTART_EVAL, QUICKSTART_TRAIN};
use qlora_proto::{Job, JobState, ListWorkersRequest, Sample};
use serde_json::json;
use tokio::process::{Child, Command};

use super::artifacts;
use super::submit::{Resolved, submit};
use super::watch::ended;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::follow::{Ended, follow};
use crate::output::{human, json as forms, print_json};

/// How long a program may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a program may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Workers that are started one after another before quickstart gives up.
const WORKERS: usize = 3;
const POLL: Duration = Duration::from_millis(50);

/// Fine-tune a small model on this machine, from nothing to a tuned adapter.
///
/// Gets SmolLM2-135M-Instruct, starts a coordinator and a worker on loopback, submits the quickstart
/// configuration, follows it, and compares the answers before and after. Leaves nothing running.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Leave the coordinator and the worker running at the end.
    #[arg(long)]
    keep: bool,
    /// Folder for everything that it makes [default: ~/.local/share/qlora/quickstart/TIME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port of the coordinator on loopback; any free one by default.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Set one key of the configuration, such as training.max_steps=20; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Quickstart {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let started = Instant::now();
        let folder = self.folder()?;
        std::fs::create_dir_all(&folder).map_err(CtlError::io(&folder))?;
        let resolved = self.write_inputs(&folder)?;
        let model = resolved.config.config().model.base.clone().unwrap_or_default();
        let path = fetch_model(context, &model).await?;
        context.say(format!("1/5 model    {model} at {path}"));
        let rows = QUICKSTART_TRAIN.lines().count();
        let held_out = QUICKSTART_EVAL.lines().count();
        context.say(format!("2/5 data     {rows} rows to learn from, {held_out} held out, no function in both"));

        let mut programs = Programs::start(&folder, self.port).await?;
        let address = programs.address.clone();
        let result = tokio::select! {
            result = self.work(context, &address, &resolved, &folder, started) => result,
            fault = programs.died(context) => Err(fault),
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted.into()),
        };
        if self.keep && result.is_ok() {
            context.say(format!(
                "still running: coordinator {} (pid {}), worker (pid {})",
                programs.address,
                pid(&programs.coordinator),
                pid(&programs.worker)
            ));
            context.say(format!("stop them with: kill {} {}", pid(&programs.worker), pid(&programs.coordinator)));
            return result;
        }
        programs.stop().await;
        if result.is_err() {
            context.say(format!(
                "logs: {} and {}",
                folder.join("coordinator.log").display(),
                folder.join("worker.log").display()
            ));
        }
        result
    }

    fn folder(&self) -> Result<PathBuf, CtlError> {
        if let Some(dir) = &self.dir {
            return std::path::absolute(dir).map_err(CtlError::io(dir));
        }
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|h| h.join(".local/share")));
        let data =
            data.ok_or_else(|| CtlError::Usage { message: "HOME is not set".into(), help: "give --dir DIR".into() })?;
        let name = jiff::Timestamp::now().strftime("%Y-%m-%d-%H%M%S").to_string();
        Ok(data.join("qlora/quickstart").join(name))
    }

    /// Puts configuration and data where a person can look at them and submit them again.
    fn write_inputs(&self, folder: &Path) -> Result<Resolved, CtlError> {
        let data = folder.join("quickstart");
        std::fs::create_dir_all(&data).map_err(CtlError::io(&data))?;
        let files = [
            ("quickstart.yaml", QUICKSTART),
            ("quickstart/train.jsonl", QUICKSTART_TRAIN),
            ("quickstart/heldout.jsonl", QUICKSTART_EVAL),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).map_err(CtlError::io(folder.join(name)))?;
        }
        let layers = Layers {
            file: Some(("quickstart.yaml".into(), QUICKSTART.into())),
            env: Vec::new(),
            set: self.set.clone(),
        };
        Ok(Resolved { config: layers.resolve()?, folder: folder.to_owned() })
    }

    async fn work(
        &self,
        context: &Context,
        address: &str,
        resolved: &Resolved,
        folder: &Path,
        started: Instant,
    ) -> Result<ExitCode, CtlError> {
        let mut global = context.global.clone();
        (global.coordinator, global.token_file) = (address.to_owned(), Some(token_file(folder)));
        let here = Context::new(global);
        let device = wait_for_worker(&here).await?;
        here.say(format!("3/5 machine  {device}, page at {}", here.client()?.page()));
        let job = submit(&here, resolved, None).await?;
        let job = match follow(&here, job.id).await? {
            Ended::Job(job) => job,
            Ended::Detached => return Ok(Exit::Interrupted.into()),
        };
        if job.state() != JobState::Succeeded {
            return ended(&here, &job);
        }
        let adapter = folder.join("adapter");
        let made = job.artifacts.iter().rev().find(|a| a.kind == "adapter");
        if let Some(made) = made {
            artifacts::get(&here, made, &adapter).await?;
        }
        report(&here, &job, &adapter, started);
        Ok(Exit::Done.into())
    }
}

/// The comparison that the person came for.
fn report(context: &Context, job: &Job, adapter: &Path, started: Instant) {
    let p = job.progress.clone().unwrap_or_default();
    if context.global.json {
        return print_json(
            &json!({"v": 1, "adapter": adapter, "seconds": started.elapsed().as_secs_f64(), "job": forms::job(job)}),
        );
    }
    let train_seconds = (job.ended_unix_ms - job.created_unix_ms) as f64 / 1000.0;
    context.say(format!(
        "4/5 trained  {} steps in {}, peak memory {}",
        p.steps,
        human::duration(train_seconds),
        human::bytes(p.peak_bytes)
    ));
    let (first, last) = (p.samples.first(), p.samples.last());
    println!();
    if let (Some(before), Some(after)) = (p.first_evaluation, p.last_evaluation) {
        println!("held-out loss  {before:.3} before, {after:.3} after ({:+.0} %)", 100.0 * (after / before - 1.0));
    }
    if let (Some(first), Some(last)) = (first, last) {
        println!("question       {}", one_line(&last.prompt));
        println!("wanted         {}", one_line(&last.wanted));
        println!("base model     {}", answer(first));
        println!("tuned model    {}", answer(last));
    }
    println!("adapter        {}", adapter.display());
    println!();
    context.say(format!("5/5 done in {}", human::duration(started.elapsed().as_secs_f64())));
    context.say("next: the adapter loads in PEFT; train on your own data with: qlora-ctl submit config.yaml --watch (docs/TRAINING_QUICKSTART.md)");
}

fn answer(sample: &Sample) -> String {
    if sample.answer.is_empty() { "(nothing)".into() } else { one_line(&sample.answer) }
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 160 { line } else { line.chars().take(159).chain(['…']).collect() }
}

/// A program that lies beside this one.
fn sibling(name: &str) -> Result<PathBuf, CtlError> {
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

/// Lets the worker fetch the model; its progress bar shows on our stderr.
async fn fetch_model(context: &Context, name: &str) -> Result<String, CtlError> {
    let mut command = Command::new(sibling("qlora-worker")?);
    command.args(["model", "fetch", name]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.stderr(if context.global.quiet { Stdio::null() } else { Stdio::inherit() });
    let child = command.spawn().map_err(CtlError::io("qlora-worker"))?;
    let output = child.wait_with_output().await.map_err(CtlError::io("qlora-worker"))?;
    if !output.status.success() {
        return Err(CtlError::Process {
            what: format!("the model {name}"),
            fault: "could not be fetched".into(),
            help: "the lines above say why".into(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The coordinator and the worker of this quickstart.
struct Programs {
    coordinator: Child,
    worker: Child,
    address: String,
    folder: PathBuf,
}

impl Programs {
    async fn start(folder: &Path, port: u16) -> Result<Self, CtlError> {
        let address_file = folder.join("address");
        let _ = std::fs::remove_file(&address_file);
        let mut coordinator = background("qlora-coordinator", folder, "coordinator.log")?;
        coordinator.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--address-file").arg(&address_file);
        coordinator.arg("--state-dir").arg(folder.join("coordinator")).env_remove("QLORA_TOKEN_FILE");
        let mut coordinator = coordinator.spawn().map_err(CtlError::io("qlora-coordinator"))?;
        let deadline = Instant::now() + START_PATIENCE;
        let address = loop {
            if let Ok(text) = std::fs::read_to_string(&address_file)
                && !text.is_empty()
            {
                break text;
            }
            let ended = coordinator.try_wait().map_err(CtlError::io("qlora-coordinator"))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(fault("qlora-coordinator", "did not come up", &folder.join("coordinator.log")));
            }
            tokio::time::sleep(POLL).await;
        };
        let worker = start_worker(folder, &address)?;
        Ok(Self { coordinator, worker, address, folder: folder.to_owned() })
    }

    /// Waits until the coordinator ends, which it should not. A worker that ends is followed by another, which goes
    /// on from the job's last checkpoint.
    async fn died(&mut self, context: &Context) -> CtlError {
        for _ in 0..WORKERS {
            tokio::select! {
                _ = self.coordinator.wait() => {
                    return fault("qlora-coordinator", "ended before the job did", &self.folder.join("coordinator.log"));
                }
                _ = self.worker.wait() => {}
            }
            context.say("the worker ended; starting another, which goes on from the last checkpoint");
            match start_worker(&self.folder, &self.address) {
                Ok(worker) => self.worker = worker,
                Err(e) => return e,
            }
        }
        fault("qlora-worker", "ended again and again", &self.folder.join("worker.log"))
    }

    async fn stop(&mut self) {
        for child in [&mut self.worker, &mut self.coordinator] {
            terminate(child);
            if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
    }
}

/// Where the coordinator of this quickstart keeps its token: the person's own QLORA_TOKEN is for another one.
fn token_file(folder: &Path) -> PathBuf {
    folder.join("coordinator/token")
}

fn start_worker(folder: &Path, address: &str) -> Result<Child, CtlError> {
    let mut worker = background("qlora-worker", folder, "worker.log")?;
    worker.args(["--coordinator", address, "--device", "cpu", "--name", "quickstart"]);
    worker.arg("--state-dir").arg(folder.join("worker")).arg("--token-file").arg(token_file(folder));
    worker.spawn().map_err(CtlError::io("qlora-worker"))
}

/// Asks a program to stop.
fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn pid(child: &Child) -> String {
    child.id().map_or_else(|| "-".into(), |id| id.to_string())
}

fn fault(what: &str, text: &str, log: &Path) -> CtlError {
    let words = std::fs::read_to_string(log).unwrap_or_default();
    let last = words.lines().last().unwrap_or_default();
    CtlError::Process {
        what: what.into(),
        fault: format!("{text}: {last}"),
        help: format!("its log is {}", log.display()),
    }
}

/// A program that outlives a Ctrl-C meant for us, and whose output goes to a file.
fn background(name: &str, folder: &Path, log: &str) -> Result<Command, CtlError> {
    let path = folder.join(log);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(CtlError::io(&path))?;
    let copy = log.try_clone().map_err(CtlError::io(&path))?;
    let mut command = Command::new(sibling(name)?);
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .process_group(0)
        .env_remove("QLORA_STATE_DIR")
        .env_remove("QLORA_TOKEN");
    Ok(command)
}

/// Waits until the worker has registered; tells what it is.
async fn wait_for_worker(context: &Context) -> Result<String, CtlError> {
    let mut client = context.client()?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let answer = client.workers.list_workers(ListWorkersRequest {}).await.map_err(context.fault())?.into_inner();
        if let Some(platform) = answer.workers.into_iter().next().and_then(|w| w.platform) {
            return Ok(format!(
                "{}, {} cores, {}",
                platform.cpu_model,
                platform.cpu_cores,
                human::gib(platform.memory)
            ));
        }
        if Instant::now() > deadline {
            return Err(CtlError::Process {
                what: "qlora-worker".into(),
                fault: "did not register".into(),
                help: "its log says why".into(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}
