use std::process::ExitCode;

use clap::Args;
use qlora_proto::ListJobsRequest;
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{print, print_json};

/// Print a link that opens the coordinator's page in a browser.
///
/// The link holds a key for the page alone, for which the browser gets a session. Whoever has the
/// link can see every job and download its artifacts, and cancel, pause and resume jobs where the
/// role of your token may.
#[derive(Debug, Args)]
pub struct Page {}

impl Page {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut client = context.client().await?;
        // A link that nobody answers, or with a key that is refused, is of no use.
        client
            .jobs
            .list_jobs(ListJobsRequest {
                limit: 1,
                ..ListJobsRequest::default()
            })
            .await
            .map_err(context.fault())?;
        let link = client.page();
        if context.global.json {
            print_json(&json!({"v": 1, "page": link}))?;
        } else {
            print(link)?;
        }
        Ok(Exit::Done.into())
    }
}
