use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::transfer;
use qlora_proto::{GetJobRequest, Job, JobArtifact};
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print_json};

/// What jobs have made.
#[derive(Debug, Subcommand)]
pub enum Artifacts {
    /// List a job's artifacts.
    List { job: u64 },
    /// Download a job's adapter, or another artifact by its name, into a folder.
    Get {
        job: u64,
        /// Such as checkpoint-000030.tar [default: the adapter]
        name: Option<String>,
        /// Folder to make [default: adapter-JOB]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

impl Artifacts {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::List { job } => {
                let job = find(context, *job).await?;
                if context.global.json {
                    job.artifacts.iter().for_each(|a| print_json(&json::artifact(a)));
                } else {
                    let row = |a: &JobArtifact| {
                        vec![a.kind.clone(), a.name.clone(), a.step.to_string(), human::bytes(a.size), a.digest.clone()]
                    };
                    let rows: Vec<_> = job.artifacts.iter().map(row).collect();
                    println!("{}", human::table(&["KIND", "NAME", "STEP", "SIZE", "SHA-256"], &[2, 3], &rows));
                }
            }
            Self::Get { job, name, output } => {
                let job = find(context, *job).await?;
                let artifact = choose(&job, name.as_deref())?;
                let folder = output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-{}", artifact.kind, job.id)));
                get(context, artifact, &folder).await?;
                if context.global.json {
                    print_json(&json!({"v": 1, "folder": folder, "artifact": json::artifact(artifact)}));
                } else {
                    println!("{}", folder.display());
                }
            }
        }
        Ok(Exit::Done.into())
    }
}

pub async fn find(context: &Context, id: u64) -> Result<Job, CtlError> {
    Ok(context.client()?.jobs.get_job(GetJobRequest { id }).await.map_err(context.fault())?.into_inner())
}

pub fn choose<'a>(job: &'a Job, name: Option<&str>) -> Result<&'a JobArtifact, CtlError> {
    let wanted = |a: &&JobArtifact| name.map_or(a.kind == "adapter", |name| a.name == name || a.kind == name);
    job.artifacts.iter().rev().find(wanted).ok_or_else(|| CtlError::Usage {
        message: format!("job {} has no artifact {}", job.id, name.unwrap_or("adapter")),
        help: format!("qlora-ctl artifacts list {}", job.id),
    })
}

/// Downloads beside `folder`, resuming what an earlier try left, and unpacks.
pub async fn get(context: &Context, artifact: &JobArtifact, folder: &std::path::Path) -> Result<(), CtlError> {
    if folder.exists() {
        return Err(CtlError::Usage {
            message: format!("{} exists already", folder.display()),
            help: "give --output FOLDER".into(),
        });
    }
    let archive = folder.with_extension("tar");
    let bar = if context.draws() { ProgressBar::new(artifact.size) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(artifact.name.clone());
    let moving = bar.clone();
    let result =
        transfer::download(&context.client()?, &artifact.digest, &archive, &move |n| moving.set_position(n)).await;
    bar.finish_and_clear();
    result?;
    qlora_client::unpack(&archive, folder)?;
    std::fs::remove_file(&archive).map_err(CtlError::io(&archive))
}
