use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qlora_config::ResolvedConfig;
use qlora_proto::numbers::whole;
use qlora_proto::{FileRole, Job, JobFile, JobKind, JobState, SubmitRequest};
use serde_json::json;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::rows::DataFile;
use crate::job::artifact::{how_it_ended, wanted};
use crate::job::follow::{Ended, States, follow};
use crate::job::record::{self, find};
use crate::job::submit::send;
use crate::job::watch::ended;
use crate::output::{human, json, print, print_json};

/// Score a job's adapter, or the base model, on held-out rows.
///
/// Loss and perplexity, and for rows that end with tool calls, how many of the model's own answers
/// are JSON, fit their tool's schema, call the right functions, and match exactly. A worker does
/// it, as a job of its own. Of a job that failed or was cancelled before it made an adapter, that of
/// its last checkpoint is scored.
#[derive(Debug, Args)]
pub struct Eval {
    /// Job whose adapter is scored.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Held-out rows [default: those of the job]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Rows at the most.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<usize>("a number of rows", 0..))]
    rows: Option<usize>,
    /// Score the base model instead of the adapter.
    #[arg(long)]
    base: bool,
    /// Score both, side by side.
    #[arg(long, conflicts_with = "base")]
    compare: bool,
}

impl Eval {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let trained = find(context, self.job).await?;
        let rows = self.rows_of(context, &trained).await?;
        let config_json = self.config(&trained)?;
        // Before the base is scored, which takes its time: what is to be compared with it has to be
        // there.
        let subjects: Vec<(&str, Option<JobFile>)> = self
            .subjects()
            .map(|adapter| {
                if adapter {
                    Ok(("adapter", Some(adapter_of(context, &trained)?)))
                } else {
                    Ok(("base", None))
                }
            })
            .collect::<Result<_, CtlError>>()?;
        let mut scored = Vec::new();
        for (what, adapter) in subjects {
            let files = [rows.clone()].into_iter().chain(adapter).collect();
            let request = SubmitRequest {
                kind: JobKind::Eval.into(),
                name: format!("{what} of {}", trained.id),
                config_json: config_json.clone(),
                files,
                ..SubmitRequest::default()
            };
            let job = send(context, request).await?;
            context.say(format!(
                "{}   scoring the {what} of job {}",
                job.id, trained.id
            ));
            match follow(context, job.id, States::Hidden).await? {
                Ended::Detached => return Ok(Exit::Interrupted.into()),
                Ended::Job(job) if job.state() == JobState::Succeeded => scored.push((what, *job)),
                Ended::Job(job) => return ended(context, &job),
            }
        }
        self.print(context, &scored)?;
        Ok(Exit::Done.into())
    }

    /// Whether with the adapter; one job each.
    fn subjects(&self) -> impl Iterator<Item = bool> {
        let (base, adapter) = (self.base || self.compare, !self.base);
        [(base, false), (adapter, true)]
            .into_iter()
            .filter_map(|(wanted, with)| wanted.then_some(with))
    }

    async fn rows_of(&self, context: &Context, trained: &Job) -> Result<JobFile, CtlError> {
        if let Some(path) = &self.data {
            let data = DataFile::open(context, FileRole::Eval, path)?;
            data.upload(context).await?;
            return Ok(data.file.clone());
        }
        trained
            .files
            .iter()
            .find(|file| file.is(FileRole::Eval))
            .cloned()
            .ok_or_else(|| CtlError::Usage {
                message: format!("job {} was trained without held-out rows", trained.id),
                help: "name some: --data FILE".into(),
            })
    }

    /// The configuration of the training, with this command's limit of rows.
    fn config(&self, trained: &Job) -> Result<String, CtlError> {
        let mut config = record::config(trained)?;
        config["training"]["eval_rows"] = json!(self.rows);
        Ok(ResolvedConfig::from_json(&config.to_string())?
            .json()
            .to_owned())
    }

    fn print(&self, context: &Context, scored: &[(&str, Job)]) -> Result<(), CtlError> {
        if context.global.json {
            for (what, job) in scored {
                let scores = job
                    .progress
                    .as_ref()
                    .and_then(|p| p.scores)
                    .map(|s| json::scores(&s));
                print_json(
                    &json!({"v": 1, "job": job.id, "of": self.job, "scored": what, "scores": scores}),
                )?;
            }
            return Ok(());
        }
        print(human::scores(scored))
    }
}

/// The adapter of `trained`, or its last checkpoint, of which the worker takes the adapter.
fn adapter_of(context: &Context, trained: &Job) -> Result<JobFile, CtlError> {
    let wanted = wanted(trained, None)?;
    let adapter = wanted.artifact;
    if wanted.is_fallback {
        context.say(format!(
            "job {} {} before it made its adapter; that of its last checkpoint, step {}, is scored, the best one where it keeps that",
            trained.id,
            how_it_ended(trained),
            adapter.step
        ));
    }
    Ok(JobFile {
        role: FileRole::Adapter.into(),
        name: adapter.name.clone(),
        digest: adapter.digest.clone(),
        size: adapter.size,
    })
}
