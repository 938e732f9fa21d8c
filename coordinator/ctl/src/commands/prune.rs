use std::process::ExitCode;

use clap::Args;
use qlora_proto::numbers::whole;
use qlora_proto::words::count;
use qlora_proto::{DAY_MS, PrunePart, PruneRequest, PrunedJob};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::job::confirm::confirmed;
use crate::output::{human, json, print, print_json};

/// Delete old jobs that have ended, or only what they have made or logged.
///
/// What another job needs as well stays. Jobs that have not ended are left alone.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only jobs that ended so many days ago.
    #[arg(long, value_name = "DAYS", required_unless_present = "keep", allow_negative_numbers = true, value_parser = whole::<u64>("a number of days", 0..))]
    older_than: Option<u64>,
    /// Leave the N jobs alone that ended last.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>("a number of jobs", 0..))]
    keep: Option<u64>,
    /// Delete checkpoints and adapters; the jobs stay.
    #[arg(long, conflicts_with = "logs_only")]
    artifacts_only: bool,
    /// Delete metrics and logs; the jobs stay.
    #[arg(long)]
    logs_only: bool,
    /// List what would go; delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

/// What was told of jobs.
#[derive(Default)]
struct Sum {
    jobs: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, job: &PrunedJob) {
        self.jobs += 1;
        self.bytes = self.bytes.saturating_add(job.bytes);
    }
}

impl Prune {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut only = Vec::new();
        if self.dry_run || !self.yes {
            let (mut would_go, mut sum) = (Vec::new(), Sum::default());
            self.call(context, true, Vec::new(), |job| {
                sum.add(&job);
                would_go.push(job);
                Ok(())
            })
            .await?;
            if self.dry_run || would_go.is_empty() {
                return self.show(context, &would_go, &sum);
            }
            if !confirmed("prune", &self.question(&sum))? {
                context.say("nothing was deleted");
                return Ok(Exit::Stopped.into());
            }
            // What has ended since is not what was asked about.
            only = would_go.iter().map(|job| job.id).collect();
        }
        let mut sum = Sum::default();
        let ended = self
            .call(context, false, only, |job| {
                sum.add(&job);
                if context.global.json {
                    return print_json(&json::pruned(&job));
                }
                Ok(())
            })
            .await;
        // Also of a call that broke off: what is gone is gone.
        self.tell(context, &sum, ended.is_err())?;
        ended.map(|()| Exit::Done.into())
    }

    fn part(&self) -> PrunePart {
        if self.artifacts_only {
            PrunePart::Artifacts
        } else if self.logs_only {
            PrunePart::Records
        } else {
            PrunePart::Job
        }
    }

    /// Asks the coordinator, and gives every job that it tells of to `each`.
    async fn call(
        &self,
        context: &Context,
        dry_run: bool,
        only: Vec<u64>,
        mut each: impl FnMut(PrunedJob) -> Result<(), CtlError>,
    ) -> Result<(), CtlError> {
        let request = PruneRequest {
            part: self.part().into(),
            older_than_ms: self.older_than.map(|days| days.saturating_mul(DAY_MS)),
            keep: self.keep,
            only,
            dry_run,
        };
        let mut client = context.client().await?;
        let answer = client.jobs.prune(request).await;
        let mut told = answer.map_err(context.fault())?.into_inner();
        while let Some(job) = told.message().await.map_err(context.fault())? {
            each(job)?;
        }
        Ok(())
    }

    /// Such as `3 jobs with metrics, logs and artifacts`.
    fn what(&self, jobs: u64) -> String {
        let jobs = count(jobs, "job");
        match self.part() {
            PrunePart::Artifacts => format!("checkpoints and adapters of {jobs}"),
            PrunePart::Records => format!("metrics and logs of {jobs}"),
            PrunePart::Job | PrunePart::Unspecified => {
                format!("{jobs} with metrics, logs and artifacts")
            }
        }
    }

    fn question(&self, sum: &Sum) -> String {
        let (what, bytes) = (self.what(sum.jobs), human::bytes(sum.bytes));
        format!("delete {what} ({bytes})?")
    }

    /// What would go.
    fn show(&self, context: &Context, jobs: &[PrunedJob], sum: &Sum) -> Result<ExitCode, CtlError> {
        if context.global.json {
            jobs.iter()
                .try_for_each(|job| print_json(&json::pruned(job)))?;
            print_json(&json::pruned_in_all(sum.jobs, sum.bytes, self.dry_run))?;
        } else if jobs.is_empty() {
            context.say("no job that has ended is meant; nothing is deleted");
        } else {
            print(human::pruned(jobs))?;
            let (what, bytes) = (self.what(sum.jobs), human::bytes(sum.bytes));
            context.say(format!("{what} would go, {bytes}"));
        }
        Ok(Exit::Done.into())
    }

    /// What is gone.
    fn tell(&self, context: &Context, sum: &Sum, broke_off: bool) -> Result<(), CtlError> {
        if context.global.json {
            return print_json(&json::pruned_in_all(sum.jobs, sum.bytes, false));
        }
        if sum.jobs == 0 && !broke_off {
            context.say("no job that has ended is meant; nothing is deleted");
        } else if sum.jobs > 0 {
            let (what, bytes) = (self.what(sum.jobs), human::bytes(sum.bytes));
            context.say(format!("deleted {what}, {bytes} freed"));
        }
        Ok(())
    }
}
