use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use qlora_client::console;
use qlora_files::Partial;
use qlora_proto::{ArtifactKind, Job, JobArtifact};
use serde_json::json;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::job::artifact::{beside, get, how_it_ended, refuse_misplaced, wanted};
use crate::job::record::find;
use crate::output::{human, json, print, print_json};

/// The files of an adapter within a checkpoint, those that every adapter has first; and the folder
/// of the best one.
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
const BESIDE: [&str; 3] = [
    "chat_template.jinja",
    "training_base.json",
    "training_template.json",
];
const BEST: &str = "best";

/// What jobs have made.
#[derive(Debug, Subcommand)]
pub enum Artifacts {
    /// List a job's artifacts.
    List {
        /// Number of the job, as `jobs` lists it.
        #[arg(allow_negative_numbers = true, value_parser = job_number)]
        job: u64,
    },
    /// Download a job's adapter, or another artifact by its name, into a folder.
    ///
    /// Of a job that failed or was cancelled before it made one, the adapter of its last checkpoint
    /// is taken: the best one where the job keeps that.
    Get {
        /// Number of the job, as `jobs` lists it.
        #[arg(allow_negative_numbers = true, value_parser = job_number)]
        job: u64,
        /// Such as checkpoint-000030.tar, or `checkpoint` for the last one [default: the adapter]
        name: Option<String>,
        /// Folder to make [default: adapter-JOB]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

impl Artifacts {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::List { job } => list(context, &find(context, *job).await?)?,
            Self::Get { job, name, output } => {
                let job = find(context, *job).await?;
                let wanted = wanted(&job, name.as_deref())?;
                let kind = if wanted.is_fallback {
                    ArtifactKind::Adapter.word()
                } else {
                    wanted.artifact.kind.as_str()
                };
                let folder = output
                    .clone()
                    .unwrap_or_else(|| PathBuf::from(format!("{kind}-{}", job.id)));
                let from = if wanted.is_fallback {
                    Some(rescue(context, &job, wanted.artifact, &folder).await?)
                } else {
                    get(context, wanted.artifact, &folder).await?;
                    None
                };
                if context.global.json {
                    print_json(&json!({
                        "v": 1, "job": job.id, "folder": folder, "artifact": json::artifact(wanted.artifact),
                        "from_checkpoint": from.is_some(), "best": from.as_ref().is_some_and(|from| from.is_best),
                    }))?;
                } else {
                    if let Some(from) = from {
                        context.say(from.text);
                    }
                    print(console::line(&folder.to_string_lossy()))?;
                }
            }
        }
        Ok(Exit::Done.into())
    }
}

fn list(context: &Context, job: &Job) -> Result<(), CtlError> {
    if context.global.json {
        return job.artifacts.iter().try_for_each(|a| {
            let mut value = json::artifact(a);
            value["v"] = 1.into();
            value["job"] = job.id.into();
            print_json(&value)
        });
    }
    if job.artifacts.is_empty() {
        context.say(format!(
            "job {} has made no artifacts; it is {}",
            job.id,
            job.state().word()
        ));
        return Ok(());
    }
    let row = |a: &JobArtifact| {
        vec![
            a.kind.clone(),
            a.name.clone(),
            a.step.to_string(),
            human::bytes(a.size),
            a.digest.clone(),
        ]
    };
    let rows: Vec<_> = job.artifacts.iter().map(row).collect();
    let columns = [
        human::word("KIND", 0),
        human::text("NAME", 0),
        human::number("STEP", 1),
        human::number("SIZE", 2),
        human::text("SHA-256", 3),
    ];
    print(human::table(&columns, &rows))
}

/// Which adapter of a checkpoint was taken.
struct Rescued {
    is_best: bool,
    text: String,
}

/// Puts the adapter of a checkpoint into `folder`.
async fn rescue(
    context: &Context,
    job: &Job,
    checkpoint: &JobArtifact,
    folder: &Path,
) -> Result<Rescued, CtlError> {
    refuse_misplaced(folder)?;
    let whole = beside(folder, &checkpoint.digest, "checkpoint");
    if whole.exists() {
        fs::remove_dir_all(&whole).map_err(CtlError::io(&whole))?;
    }
    get(context, checkpoint, &whole).await?;
    let best = whole.join(BEST);
    let is_best = best.is_dir();
    let from = if is_best { &best } else { &whole };
    let partial = Partial::folder(folder).map_err(CtlError::io(folder))?;
    let there = BESIDE.into_iter().filter(|name| from.join(name).exists());
    for name in ADAPTER_FILES.into_iter().chain(there) {
        fs::rename(from.join(name), partial.path().join(name))
            .map_err(CtlError::io(from.join(name)))?;
    }
    partial.publish().map_err(CtlError::io(folder))?;
    fs::remove_dir_all(&whole).map_err(CtlError::io(&whole))?;
    let which = if is_best {
        "the best adapter kept in"
    } else {
        "the adapter of"
    };
    let text = format!(
        "job {} {} before it made its adapter; this is {which} its last checkpoint, step {}",
        job.id,
        how_it_ended(job),
        checkpoint.step
    );
    Ok(Rescued { is_best, text })
}

#[cfg(test)]
mod tests {
    use qlora_proto::JobState;

    use super::*;

    fn job(state: JobState, kinds: &[&str]) -> Job {
        let made = |(i, kind): (usize, &&str)| JobArtifact {
            kind: (*kind).into(),
            name: format!("{kind}-{i}.tar"),
            step: i as u64,
            ..JobArtifact::default()
        };
        let artifacts = kinds.iter().enumerate().map(made).collect();
        Job {
            id: 7,
            state: state.into(),
            artifacts,
            ..Job::default()
        }
    }

    #[test]
    fn only_a_job_that_ended_without_an_adapter_gives_its_last_checkpoint_instead() {
        let both = job(JobState::Succeeded, &["checkpoint", "adapter"]);
        let found = wanted(&both, None).expect("an adapter");
        assert_eq!(
            (found.artifact.kind.as_str(), found.is_fallback),
            ("adapter", false)
        );
        for state in [JobState::Failed, JobState::Cancelled] {
            let ended = job(state, &["checkpoint", "checkpoint"]);
            for name in [None, Some("adapter")] {
                let found = wanted(&ended, name).expect("a checkpoint");
                assert_eq!((found.artifact.step, found.is_fallback), (1, true));
            }
            assert!(wanted(&ended, Some("checkpoint-7.tar")).is_err());
            let none = wanted(&job(state, &[]), None).err().expect("a refusal");
            let said = none.to_string();
            assert!(
                said.contains(how_it_ended(&job(state, &[]))) && said.contains("before it made"),
                "{said}"
            );
        }
        let running = wanted(&job(JobState::Running, &["checkpoint"]), None)
            .err()
            .expect("a refusal");
        assert!(
            running.help().contains("artifacts get 7 checkpoint"),
            "{}",
            running.help()
        );
    }
}
