//! `Prune` of `qlora.v1.JobService`: a request as what is asked for, and each job as it goes.

use qlora_engine::{Prune, Refusal};
use qlora_proto::*;
use qlora_store::{By, JobStore};
use tokio::sync::mpsc;
use tonic::Status;

use super::Services;
use crate::clock::now;
use crate::convert;
use crate::error::CallError;
use crate::prune::Asked;

/// What `request` asks for.
///
/// # Errors
/// It does not say what is to go, or bounds it by nothing.
pub fn asked(request: PruneRequest) -> Result<Asked, CallError> {
    let what = match request.part() {
        PrunePart::Job => Prune::Job,
        PrunePart::Artifacts => Prune::Artifacts,
        PrunePart::Records => Prune::Records,
        PrunePart::Unspecified => {
            return Err(CallError::Invalid("what is to go is missing".into()));
        }
    };
    if request.older_than_ms.is_none() && request.keep.is_none() {
        return Err(CallError::Invalid(
            "which ended jobs are meant is missing: give an age, a number to keep, or both".into(),
        ));
    }
    Ok(Asked {
        what,
        older_than: request.older_than_ms.unwrap_or_default(),
        keep: request.keep.unwrap_or_default(),
        only: request.only.into_iter().map(convert::job_in).collect(),
    })
}

impl<S: JobStore> Services<S> {
    /// Lets what is asked for `by` somebody go, job by job, unless it is a `dry_run`; ends early
    /// where nobody hears of it any more.
    pub(super) async fn prune_each(
        &self,
        asked: Asked,
        dry_run: bool,
        by: Option<By>,
        told: &mpsc::Sender<Result<PrunedJob, Status>>,
    ) -> Result<(), CallError> {
        let at = now().wall;
        let chosen = self.driver.read(move |engine| asked.choose(engine, at));
        for going in chosen.await? {
            let job = match self.job(going.job.0).await {
                Ok(job) => job,
                // Somebody else was faster, or it is named where somebody asks for it.
                Err(CallError::Refused(Refusal::UnknownJob(_)) | CallError::Unreadable { .. }) => {
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            let pruned = described(&job, going.bytes(&*self.store).await?);
            if told.is_closed() {
                return Ok(());
            }
            if !dry_run && !going.go(&self.driver, by.clone()).await? {
                continue;
            }
            if told.send(Ok(pruned)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn described(job: &Job, bytes: u64) -> PrunedJob {
    PrunedJob {
        id: job.id,
        name: job.name.clone(),
        state: job.state,
        ended_unix_ms: job.ended_unix_ms,
        bytes,
    }
}
