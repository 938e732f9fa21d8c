use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use clap::Args;
use qlora_client::console;
use qlora_config::{Layers, QUICKSTART, QUICKSTART_EVAL, QUICKSTART_TRAIN};
use qlora_proto::words::{count, duration};
use qlora_proto::{ArtifactKind, Job, JobState, ListWorkersRequest, Sample};
use serde_json::json;
use tokio::process::Command;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::paths::Origin;
use crate::input::resolved::Resolved;
use crate::interrupt::interrupted;
use crate::job::artifact;
use crate::job::follow::{Ended, States, follow};
use crate::job::submit::submit;
use crate::job::watch::ended;
use crate::output::{human, json as forms, print, print_json};
use crate::programs::{POLL, Programs, START_PATIENCE, pid, sibling, token_file};

/// Fine-tune a small model on this machine, from nothing to a tuned adapter.
///
/// Gets SmolLM2-135M-Instruct, starts a coordinator and a worker on loopback, submits the
/// quickstart configuration, follows it, and compares the answers before and after. Leaves nothing
/// running.
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
        refuse_used(&folder)?;
        std::fs::create_dir_all(&folder).map_err(CtlError::io(&folder))?;
        let resolved = self.write_inputs(&folder)?;
        let model = resolved
            .config
            .config()
            .model
            .base
            .clone()
            .unwrap_or_default();
        let path = fetch_model(context, &model).await?;
        context.say(format!("1/5 model    {model} at {path}"));
        let rows = QUICKSTART_TRAIN.lines().count();
        let held_out = QUICKSTART_EVAL.lines().count();
        context.say(format!(
            "2/5 data     {} to train on, {held_out} held out, no function in both",
            count(rows as u64, "row")
        ));

        let mut programs = Programs::start(&folder, self.port).await?;
        let address = programs.address.clone();
        let result = tokio::select! {
            result = self.work(context, &address, &resolved, &folder, started) => result,
            fault = programs.died(context) => Err(fault),
            () = interrupted() => Ok(Exit::Interrupted.into()),
        };
        if self.keep && result.is_ok() {
            context.say(format!(
                "still running: coordinator {} (pid {}), worker (pid {})",
                programs.address,
                pid(&programs.coordinator),
                pid(&programs.worker)
            ));
            context.say(format!(
                "stop them with: kill {} {}",
                pid(&programs.worker),
                pid(&programs.coordinator)
            ));
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
        let nowhere = || CtlError::Usage {
            message: "HOME is not set".into(),
            help: "give --dir DIR".into(),
        };
        let data = qlora_client::data_folder().ok_or_else(nowhere)?;
        let name = jiff::Timestamp::now()
            .strftime("%Y-%m-%d-%H%M%S")
            .to_string();
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
        Resolved::new(layers, Origin::Folder(folder.to_owned()))
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
        here.say(format!(
            "3/5 machine  {device}, page at {}",
            here.client()?.page()
        ));
        let job = submit(&here, resolved, None).await?;
        let job = match follow(&here, job.id, States::Hidden).await? {
            Ended::Job(job) => job,
            Ended::Detached => return Ok(Exit::Interrupted.into()),
        };
        if job.state() != JobState::Succeeded {
            return ended(&here, &job);
        }
        let adapter = folder.join("adapter");
        let made = job
            .artifacts
            .iter()
            .rev()
            .find(|a| a.is(ArtifactKind::Adapter));
        if let Some(made) = made {
            artifact::get(&here, made, &adapter).await?;
        }
        report(&here, &job, &adapter, started)?;
        Ok(Exit::Done.into())
    }
}

/// The comparison that the person came for.
fn report(context: &Context, job: &Job, adapter: &Path, started: Instant) -> Result<(), CtlError> {
    let p = job.progress.clone().unwrap_or_default();
    if context.global.json {
        return print_json(
            &json!({"v": 1, "adapter": adapter, "seconds": started.elapsed().as_secs_f64(), "job": forms::job(job, None)}),
        );
    }
    let train_seconds = (job.ended_unix_ms - job.created_unix_ms) as f64 / 1000.0;
    context.say(format!(
        "4/5 trained  {} in {}, peak memory {}",
        count(p.steps, "step"),
        duration(train_seconds),
        human::bytes(p.peak_bytes)
    ));
    let (first, last) = (p.samples.first(), p.samples.last());
    print("")?;
    if let (Some(before), Some(after)) = (p.first_evaluation, p.last_evaluation) {
        let change = 100.0 * (after / before - 1.0);
        print(format!(
            "held-out loss  {before:.3} before, {after:.3} after ({change:+.0} %)"
        ))?;
    }
    if let (Some(first), Some(last)) = (first, last) {
        print(format!("question       {}", one_line(&last.prompt)))?;
        print(format!("wanted         {}", one_line(&last.wanted)))?;
        print(format!("base model     {}", answer(first)))?;
        print(format!("tuned model    {}", answer(last)))?;
    }
    print(format!(
        "adapter        {}",
        console::line(&adapter.to_string_lossy())
    ))?;
    print("")?;
    context.say(format!(
        "5/5 done in {}",
        duration(started.elapsed().as_secs_f64())
    ));
    context.say("next: the adapter loads in PEFT; train on your own data with: qlora-ctl submit config.yaml --watch (docs/TRAINING_QUICKSTART.md)");
    Ok(())
}

/// Its parts would be mixed with those of an earlier one, so a folder with something in it is
/// refused before any work.
fn refuse_used(folder: &Path) -> Result<(), CtlError> {
    let is_used = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(CtlError::io(folder)(e)),
    };
    if is_used {
        return Err(CtlError::Usage {
            message: format!("{} exists already and is not empty", folder.display()),
            help: "give --dir another folder, or remove this one".into(),
        });
    }
    Ok(())
}

fn answer(sample: &Sample) -> String {
    if sample.answer.is_empty() {
        "(nothing)".into()
    } else {
        one_line(&sample.answer)
    }
}

fn one_line(text: &str) -> String {
    human::short(
        &console::line(&text.split_whitespace().collect::<Vec<_>>().join(" ")),
        160,
    )
}

/// Lets the worker fetch the model; its progress bar shows on our stderr.
async fn fetch_model(context: &Context, name: &str) -> Result<String, CtlError> {
    let mut command = Command::new(sibling("qlora-worker")?);
    command
        .args(["model", "fetch", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.stderr(if context.global.quiet {
        Stdio::null()
    } else {
        Stdio::inherit()
    });
    let child = command.spawn().map_err(CtlError::io("qlora-worker"))?;
    let output = child
        .wait_with_output()
        .await
        .map_err(CtlError::io("qlora-worker"))?;
    if !output.status.success() {
        return Err(CtlError::Process {
            what: format!("the model {name}"),
            fault: "could not be fetched".into(),
            help: "the lines above say why".into(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Waits until the worker has registered; tells what it is.
async fn wait_for_worker(context: &Context) -> Result<String, CtlError> {
    let mut client = context.client()?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let answer = client
            .workers
            .list_workers(ListWorkersRequest {})
            .await
            .map_err(context.fault())?
            .into_inner();
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
