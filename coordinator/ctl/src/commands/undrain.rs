use std::process::ExitCode;

use clap::Args;
use qlora_proto::{UndrainQueueRequest, UndrainWorkerRequest, WorkerInfo};

use crate::context::Context;
use crate::each::each_worker;
use crate::error::{CtlError, Exit};
use crate::output::{json, print_json};
use crate::worker::fault;

/// Give drained workers work again.
#[derive(Debug, Args)]
pub struct Undrain {
    /// Names of the workers, as `workers` lists them.
    #[arg(required_unless_present = "queue", value_name = "WORKER")]
    workers: Vec<String>,
    /// Let jobs start again after `drain --queue`.
    #[arg(long, conflicts_with = "workers")]
    queue: bool,
}

impl Undrain {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if self.queue {
            return undrain_queue(context).await;
        }
        let act = async |name| self.undrain(context, name).await;
        each_worker(context, &self.workers, act, |worker| {
            format!("{}   takes work", worker.name)
        })
        .await
    }

    async fn undrain(&self, context: &Context, name: String) -> Result<WorkerInfo, CtlError> {
        let request = UndrainWorkerRequest { name: name.clone() };
        match context
            .client()
            .await?
            .workers
            .undrain_worker(request)
            .await
        {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(fault(context, &name, status).await),
        }
    }
}

async fn undrain_queue(context: &Context) -> Result<ExitCode, CtlError> {
    let mut client = context.client().await?;
    let answer = client.workers.undrain_queue(UndrainQueueRequest {}).await;
    answer.map_err(context.fault())?;
    if context.global.json {
        print_json(&json::queue(None, None))?;
    } else {
        context.say("jobs start again");
    }
    Ok(Exit::Done.into())
}
