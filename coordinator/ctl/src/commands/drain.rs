use std::process::ExitCode;

use clap::Args;
use qlora_proto::words::count;
use qlora_proto::{DrainQueueRequest, DrainWorkerRequest, ListWorkersRequest, WorkerInfo};

use crate::context::Context;
use crate::each::each_worker;
use crate::error::{CtlError, Exit};
use crate::output::{json, print_json};
use crate::worker::fault;

/// Give workers no more work.
///
/// A drained worker finishes what it runs. It stays drained until `undrain`, also after a restart of
/// the worker or of the coordinator. With --queue no job starts on any worker; jobs are still taken.
#[derive(Debug, Args)]
pub struct Drain {
    /// Names of the workers, as `workers` lists them.
    #[arg(required_unless_present_any = ["all", "queue"], value_name = "WORKER")]
    workers: Vec<String>,
    /// Drain every worker that is connected.
    #[arg(long, conflicts_with = "workers")]
    all: bool,
    /// Let no job start, on these workers or others, until `undrain --queue`. Running jobs go on.
    #[arg(long, conflicts_with_all = ["workers", "all", "now"])]
    queue: bool,
    /// Why, shown with the worker; "by user" where nothing is given.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not wait: running attempts save and stop, and their jobs go back to the queue at once.
    /// This counts neither as a failure nor as a loss.
    #[arg(long)]
    now: bool,
}

impl Drain {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if self.queue {
            return self.drain_queue(context).await;
        }
        let names = if self.all {
            connected(context).await?
        } else {
            self.workers.clone()
        };
        if names.is_empty() {
            context.say("no worker is connected");
            return Ok(Exit::Done.into());
        }
        let act = async |name| self.drain(context, name).await;
        each_worker(context, &names, act, |worker| {
            let name = &worker.name;
            match worker.running_job {
                0 => format!("{name}   drained"),
                job if self.now => format!("{name}   drained; job {job} saves and stops"),
                job => format!("{name}   drained; it finishes job {job}"),
            }
        })
        .await
    }

    async fn drain_queue(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let reason = self.reason.clone();
        let request = DrainQueueRequest { reason };
        let mut client = context.client().await?;
        let answer = client.workers.drain_queue(request).await;
        let answer = answer.map_err(context.fault())?.into_inner();
        if context.global.json {
            print_json(&json::queue(answer.drained.as_ref(), Some(answer.running)))?;
        } else {
            context.say(format!(
                "the queue is drained; {} still running",
                count(answer.running, "job")
            ));
        }
        Ok(Exit::Done.into())
    }

    async fn drain(&self, context: &Context, name: String) -> Result<WorkerInfo, CtlError> {
        let request = DrainWorkerRequest {
            name: name.clone(),
            reason: self.reason.clone(),
            now: self.now,
        };
        match context.client().await?.workers.drain_worker(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(fault(context, &name, status).await),
        }
    }
}

/// Names of the workers that are there.
async fn connected(context: &Context) -> Result<Vec<String>, CtlError> {
    let mut client = context.client().await?;
    let answer = client.workers.list_workers(ListWorkersRequest {}).await;
    let workers = answer.map_err(context.fault())?.into_inner().workers;
    let there = workers.into_iter().filter(|worker| worker.connected);
    Ok(there.map(|worker| worker.name).collect())
}
