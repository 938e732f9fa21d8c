use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_codes::Code;
use qlora_proto::ExplainRequest;
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print, print_json};

/// Say why a job waits, for each worker; or what an error code such as Q0301 means.
#[derive(Debug, Args)]
pub struct Explain {
    /// A job's number, or an error code.
    what: String,
}

impl Explain {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if let Some(code) = Code::find(&self.what) {
            if context.global.json {
                print_json(&json!({"v": 1, "code": code.id(), "text": code.meaning()}))?;
            } else {
                print(format!("{code}: {}", code.meaning()))?;
            }
            return Ok(Exit::Done.into());
        }
        let id = self.what.parse().map_err(|_| CtlError::Usage {
            message: format!("`{}` is no job and no error code", self.what),
            help: format!(
                "write a number such as 7, or a code such as {}",
                Code::DoesNotFit
            ),
        })?;
        let answer = context
            .client()
            .await?
            .jobs
            .explain(ExplainRequest { id })
            .await
            .map_err(context.fault())?
            .into_inner();
        if context.global.json {
            print_json(&json::explanation(id, &answer))?;
        } else {
            print(console::line(&answer.summary))?;
            for worker in &answer.workers {
                print(format!(
                    "  {:<12} {}",
                    console::line(&worker.worker),
                    console::line(&worker.reason)
                ))?;
            }
        }
        Ok(Exit::Done.into())
    }
}
