use std::process::ExitCode;

use clap::Args;
use qlora_proto::ListWorkersRequest;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print, print_json};

/// List workers.
#[derive(Debug, Args)]
pub struct Workers {}

impl Workers {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let answer =
            context.client()?.workers.list_workers(ListWorkersRequest {}).await.map_err(context.fault())?.into_inner();
        if context.global.json {
            answer.workers.iter().try_for_each(|w| print_json(&json::worker(w)))?;
        } else if answer.workers.is_empty() {
            context
                .say(format!("no workers; on each machine: qlora-worker --coordinator {}", context.global.coordinator));
        } else {
            print(human::workers(&answer.workers))?;
        }
        Ok(Exit::Done.into())
    }
}
