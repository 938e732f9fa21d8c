use std::cell::Cell;
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use clap::Args;
use qlora_client::console;
use qlora_config::{Layers, QUICKSTART, QUICKSTART_EVAL, QUICKSTART_TRAIN};
use qlora_proto::numbers::whole;
use qlora_proto::words::{count, duration};
use qlora_proto::{Job, JobState, ListWorkersRequest, Sample};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::local;
use crate::input::paths::Origin;
use crate::input::resolved::Resolved;
use crate::interrupt::interrupted;
use crate::job::artifact;
use crate::job::follow::{Ended, States, follow};
use crate::job::submit::{Terms, submit};
use crate::job::watch::ended;
use crate::output::{human, json as forms, print, print_json};
use crate::programs::{
    POLL, Programs, START_PATIENCE, fault, pid, sibling, token_file, worker_says,
};

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
    /// Folder for everything that it makes [default: qlora/quickstart/TIME in the user's data folder,
    /// ~/.local/share]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port of the coordinator on loopback; any free one by default.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u16>("a port", 0..=65_535))]
    port: u16,
    /// Set one key of the configuration, such as training.max_steps=20; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// The folder of the rows. It is made first, so who makes it has taken the whole folder.
const DATA: &str = "quickstart";
/// What is put into the folder before a job is submitted, logs apart.
const MADE: [&str; 5] = [DATA, "quickstart.yaml", "address", "coordinator", "worker"];
/// What the programs say: all that tells why a start has failed.
const LOGS: [&str; 2] = ["coordinator.log", "worker.log"];

impl Quickstart {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let started = Instant::now();
        let folder = self.folder()?;
        refuse_used(&folder)?;
        let resolved = self.resolve(&folder)?;
        let model = resolved
            .config
            .config()
            .model
            .base
            .clone()
            .unwrap_or_default();
        if Path::new(&model).exists() {
            // What the model cannot give is known before anything is made.
            local::look(context, &resolved).await?;
        }
        let path = fetch_model(context, &model).await?;
        context.say(format!("1/5 model    {model} at {path}"));
        let (was_there, begun) = (folder.exists(), Cell::new(false));
        // Only now, so that a refused key or a failed download leaves the folder unused; another
        // quickstart may have taken it meanwhile.
        claim(&folder)?;
        let result = self
            .train(context, &resolved, &folder, started, &begun)
            .await;
        if !begun.get() {
            // The same command would refuse a folder with something in it.
            clear(&folder, was_there, result.is_err());
        }
        result
    }

    /// Starts the programs and trains; `begun` tells whether the job was submitted.
    async fn train(
        &self,
        context: &Context,
        resolved: &Resolved,
        folder: &Path,
        started: Instant,
        begun: &Cell<bool>,
    ) -> Result<ExitCode, CtlError> {
        write_inputs(folder)?;
        context.say(self.data_line());

        // The programs have process groups of their own: a Ctrl-C that ended only us would leave them
        // running.
        let mut programs = tokio::select! {
            () = interrupted() => return Ok(Exit::Interrupted.into()),
            programs = Programs::start(folder, self.port) => programs?,
        };
        let address = programs.address.clone();
        let result = tokio::select! {
            // In this order: `follow` hears the same signal and would say that the job goes on.
            biased;
            () = interrupted() => Ok(Exit::Interrupted.into()),
            fault = programs.died(context) => Err(fault),
            result = self.work(context, &address, resolved, folder, started, begun) => result,
        };
        if self.keep && begun.get() && result.is_ok() {
            tell_running(context, &programs);
            programs.leave();
            return result;
        }
        programs.stop().await;
        if result.is_err() {
            context.say(format!(
                "logs: {} and {}",
                folder.join(LOGS[0]).display(),
                folder.join(LOGS[1]).display()
            ));
        }
        result
    }

    fn folder(&self) -> Result<PathBuf, CtlError> {
        if let Some(dir) = &self.dir {
            return std::path::absolute(dir).map_err(CtlError::io(dir));
        }
        let nowhere = || CtlError::Usage {
            message: "neither XDG_DATA_HOME nor HOME is an absolute path".into(),
            help: "give --dir DIR".into(),
        };
        let data = qlora_client::data_folder().ok_or_else(nowhere)?;
        let name = jiff::Timestamp::now()
            .strftime("%Y-%m-%d-%H%M%S")
            .to_string();
        Ok(data.join("qlora/quickstart").join(name))
    }

    fn resolve(&self, folder: &Path) -> Result<Resolved, CtlError> {
        let layers = Layers {
            file: Some(("quickstart.yaml".into(), QUICKSTART.into())),
            env: Vec::new(),
            set: self.set.clone(),
        };
        Resolved::new(layers, Origin::Folder(folder.to_owned()))
    }

    /// What is trained on, unless the person has set it.
    fn data_line(&self) -> String {
        if self.set.iter().any(|set| set.starts_with("data.")) {
            return "2/5 data     as --set says".into();
        }
        let rows = QUICKSTART_TRAIN.lines().count();
        let held_out = QUICKSTART_EVAL.lines().count();
        format!(
            "2/5 data     {} to train on, {held_out} held out, no function in both",
            count(rows as u64, "row")
        )
    }

    async fn work(
        &self,
        context: &Context,
        address: &str,
        resolved: &Resolved,
        folder: &Path,
        started: Instant,
        begun: &Cell<bool>,
    ) -> Result<ExitCode, CtlError> {
        let mut global = context.global.clone();
        (global.coordinator, global.token_file) = (address.to_owned(), Some(token_file(folder)));
        let here = Context::new(global);
        let device = wait_for_worker(&here, folder).await?;
        let link = here.client().await?.page().await;
        let page = link.map_err(here.fault())?;
        here.say(format!("3/5 machine  {device}, page at {page}"));
        let job = submit(&here, resolved, Terms::default()).await?;
        begun.set(true);
        let job = match follow(&here, job.id, States::Hidden).await? {
            Ended::Job(job) => job,
            Ended::Detached => return Ok(Exit::Interrupted.into()),
        };
        if job.state() != JobState::Succeeded {
            return ended(&here, &job);
        }
        let adapter = folder.join("adapter");
        artifact::get(&here, artifact::choose(&job, None)?, &adapter).await?;
        report(&here, &job, &adapter, started)?;
        Ok(Exit::Done.into())
    }
}

/// Takes `folder` for this quickstart alone: of several that begin at once, one makes the folder of
/// the rows. The logs of a start that failed make room for those of this one.
fn claim(folder: &Path) -> Result<(), CtlError> {
    std::fs::create_dir_all(folder).map_err(CtlError::io(folder))?;
    refuse_used(folder)?;
    let data = folder.join(DATA);
    match std::fs::create_dir(&data) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(used(folder)),
        made => made.map_err(CtlError::io(&data))?,
    }
    LOGS.iter()
        .for_each(|log| drop(std::fs::remove_file(folder.join(log))));
    Ok(())
}

/// Writes configuration and data into a folder that was claimed, so that they can be looked at and submitted again.
fn write_inputs(folder: &Path) -> Result<(), CtlError> {
    let files = [
        ("quickstart.yaml", QUICKSTART),
        ("quickstart/train.jsonl", QUICKSTART_TRAIN),
        ("quickstart/heldout.jsonl", QUICKSTART_EVAL),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).map_err(CtlError::io(folder.join(name)))?;
    }
    Ok(())
}

/// How to reach the programs that keep running, and to stop them; also with --quiet and --json, since
/// nothing else says it.
fn tell_running(context: &Context, programs: &Programs) {
    let (coordinator, worker) = (pid(&programs.coordinator), pid(&programs.worker));
    let address = &programs.address;
    let text = if context.global.json {
        let running =
            json!({"coordinator": address, "coordinator_pid": coordinator, "worker_pid": worker});
        json!({"v": 1, "running": running}).to_string()
    } else {
        format!(
            "still running: coordinator {address} (pid {coordinator}), worker (pid {worker})\nstop them with: kill {worker} {coordinator}"
        )
    };
    console::note(&console::block(&text));
}

/// Prints losses and answers before and after training.
fn report(context: &Context, job: &Job, adapter: &Path, started: Instant) -> Result<(), CtlError> {
    let p = job.progress.clone().unwrap_or_default();
    if context.global.json {
        return print_json(
            &json!({"v": 1, "adapter": adapter, "seconds": started.elapsed().as_secs_f64(), "job": forms::job(job, None)}),
        );
    }
    let job_seconds = (job.ended_unix_ms - job.created_unix_ms) as f64 / 1000.0;
    context.say(format!(
        "4/5 trained  {}, job done in {}, peak memory {}",
        count(p.steps, "step"),
        duration(job_seconds),
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

/// Refuses a folder with something in it, before any work: files of an earlier run would mix with
/// those of this one. The logs of a start that failed do not.
fn refuse_used(folder: &Path) -> Result<(), CtlError> {
    let is_log = |entry: DirEntry| LOGS.iter().any(|log| entry.file_name() == *log);
    let is_used = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.any(|entry| !entry.is_ok_and(is_log)),
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => return Err(CtlError::io(folder)(e)),
    };
    if is_used { Err(used(folder)) } else { Ok(()) }
}

fn used(folder: &Path) -> CtlError {
    CtlError::Usage {
        message: format!("{} exists already and is not empty", folder.display()),
        help: "give --dir another folder, or remove this one".into(),
    }
}

/// Takes away what this quickstart put into `folder`, by its names, and the folder itself where it
/// was not there before and is empty then. The logs of a start that failed stay.
fn clear(folder: &Path, was_there: bool, has_failed: bool) {
    let logs = LOGS.iter().filter(|_| !has_failed);
    for path in MADE.iter().chain(logs).map(|name| folder.join(name)) {
        // What cannot be removed is refused by the next command, which names the folder.
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
        drop(removed);
    }
    if !was_there {
        drop(std::fs::remove_dir(folder));
    }
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
    if context.global.quiet || context.global.json {
        return fetch_in_silence(name).await;
    }
    let mut command = Command::new(sibling("qlora-worker")?);
    command
        .args(["model", "fetch", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
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

/// [`fetch_model`] without a progress bar; a fault comes with its reason and its code.
async fn fetch_in_silence(name: &str) -> Result<String, CtlError> {
    let answer = worker_says(&["--json", "model", "fetch", name]).await?;
    let path = serde_json::from_str::<Value>(&answer)
        .ok()
        .and_then(|answer| answer["path"].as_str().map(str::to_owned));
    path.ok_or_else(|| CtlError::Process {
        what: "qlora-worker".into(),
        fault: "printed no path".into(),
        help: "use the qlora-worker that was built with this qlora-ctl".into(),
    })
}

/// Waits until the worker has registered; tells what its machine is.
async fn wait_for_worker(context: &Context, folder: &Path) -> Result<String, CtlError> {
    let mut client = context.client().await?;
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
            return Err(fault(
                "qlora-worker",
                "did not register",
                &folder.join("worker.log"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_failed_start_has_made_is_taken_away_and_no_more() {
        let home = tempfile::tempdir().expect("a folder");
        let made = |name: &str| {
            let folder = home.path().join(name);
            claim(&folder).expect("a folder of its own");
            write_inputs(&folder).expect("files");
            fs::write(folder.join(LOGS[0]), "why").expect("a log");
            // It is taken, and who is refused takes nothing away.
            assert!(claim(&folder).is_err());
            folder
        };
        let folder = made("interrupted");
        clear(&folder, false, false);
        assert!(!folder.exists());
        let folder = made("failed");
        clear(&folder, false, true);
        let log = folder.join(LOGS[0]);
        assert!(log.exists() && refuse_used(&folder).is_ok());
        claim(&folder).expect("the folder once more");
        assert!(!log.exists());
        let folder = made("old");
        fs::write(folder.join("mine"), "").expect("a file");
        clear(&folder, true, true);
        let left = fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(left, 2, "the log and what is no quickstart's");
        assert!(refuse_used(&folder).is_err());
    }
}
