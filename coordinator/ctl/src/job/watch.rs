//! Follows a job to its end, and turns the end into an exit code.

use std::process::ExitCode;
use std::time::Duration;

use qlora_proto::words::duration;
use qlora_proto::{ArtifactKind, Job, JobState};

use super::follow::{Ended, States, follow};
use crate::context::Context;
use crate::error::{CtlError, Exit};

/// Follows `id` and turns its end into the exit code.
pub async fn watch(context: &Context, id: u64, timeout: Option<u64>) -> Result<ExitCode, CtlError> {
    let limit = timeout.map_or(Duration::MAX, Duration::from_secs);
    match tokio::time::timeout(limit, follow(context, id, States::Printed)).await {
        Err(_) => Err(CtlError::TimedOut {
            job: id,
            seconds: timeout.unwrap_or_default(),
        }),
        Ok(Ok(Ended::Detached)) => Ok(Exit::Interrupted.into()),
        Ok(Ok(Ended::Job(job))) => ended(context, &job),
        Ok(Err(e)) => Err(e),
    }
}

/// The last word on a job.
pub fn ended(context: &Context, job: &Job) -> Result<ExitCode, CtlError> {
    let made = |kind| job.artifacts.iter().any(|artifact| artifact.is(kind));
    let saved = made(ArtifactKind::Checkpoint);
    match job.state() {
        JobState::Failed => Err(CtlError::JobFailed {
            job: job.id,
            reason: job.reason.clone(),
            saved,
        }),
        JobState::Cancelled => Err(CtlError::JobCancelled {
            job: job.id,
            reason: job.reason.clone(),
            saved,
        }),
        _ => {
            let p = job.progress.clone().unwrap_or_default();
            let took = duration((job.ended_unix_ms - job.created_unix_ms) as f64 / 1000.0);
            let eval = match (p.first_evaluation, p.last_evaluation) {
                (Some(first), Some(last)) => format!(", held-out loss {first:.3} -> {last:.3}"),
                (None, Some(last)) => format!(", held-out loss {last:.3}"),
                _ => String::new(),
            };
            context.say(format!("{}   done in {took}{eval}", job.id));
            if made(ArtifactKind::Adapter) {
                context.say(format!("next: qlora-ctl artifacts get {}", job.id));
            }
            Ok(Exit::Done.into())
        }
    }
}
