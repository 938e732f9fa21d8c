use std::process::ExitCode;

use clap::Args;
use qlora_proto::{UndrainWorkerRequest, WorkerInfo};

use crate::context::Context;
use crate::each::each_worker;
use crate::error::CtlError;
use crate::worker::fault;

/// Give drained workers work again.
#[derive(Debug, Args)]
pub struct Undrain {
    /// Names of the workers, as `workers` lists them.
    #[arg(required = true, value_name = "WORKER")]
    workers: Vec<String>,
}

impl Undrain {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
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
