use std::process::ExitCode;

use clap::Args;
use qlora_proto::{ListWorkersRequest, RemoveWorkerRequest};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print, print_json, workers};

/// List workers.
#[derive(Debug, Args)]
pub struct Workers {
    /// Take a worker that is away for good off the list.
    #[arg(long, value_name = "NAME")]
    remove: Option<String>,
}

impl Workers {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match &self.remove {
            Some(name) => Self::remove(context, name).await,
            None => Self::list(context).await,
        }
    }

    async fn remove(context: &Context, name: &str) -> Result<ExitCode, CtlError> {
        let request = RemoveWorkerRequest {
            name: name.to_owned(),
        };
        context
            .client()
            .await?
            .workers
            .remove_worker(request)
            .await
            .map_err(context.fault())?;
        if context.global.json {
            print_json(&serde_json::json!({"v": 1, "worker": name, "removed": true}))?;
        } else {
            context.say(format!("{name} is off the list"));
        }
        Ok(Exit::Done.into())
    }

    async fn list(context: &Context) -> Result<ExitCode, CtlError> {
        let answer = context
            .client()
            .await?
            .workers
            .list_workers(ListWorkersRequest {})
            .await
            .map_err(context.fault())?
            .into_inner();
        if context.global.json {
            answer
                .workers
                .iter()
                .try_for_each(|w| print_json(&json::worker(w)))?;
        } else if answer.workers.is_empty() {
            context.say(format!(
                "no workers; on each machine: qlora-worker --coordinator {}",
                context.global.coordinator
            ));
        } else {
            let now = jiff::Timestamp::now().as_millisecond();
            print(workers::workers(&answer.workers, now))?;
        }
        if let Some(drain) = &answer.queue_drained {
            let drained = drain.words(jiff::Timestamp::now().as_millisecond());
            context.say(format!(
                "no job starts, the queue is drained {drained}; qlora-ctl undrain --queue ends it"
            ));
        }
        Ok(Exit::Done.into())
    }
}
