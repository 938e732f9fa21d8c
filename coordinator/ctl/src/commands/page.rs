use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{print, print_json};

/// Print a link that opens the coordinator's page in a browser, once.
///
/// It has to be opened within ten minutes, and the browser gets a session for it. Whoever opens it
/// can see every job and download its artifacts, and cancel, pause and resume jobs where the role
/// of your token may.
#[derive(Debug, Args)]
pub struct Page {}

impl Page {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut client = context.client().await?;
        let link = client.page().await.map_err(context.fault())?;
        if context.global.json {
            print_json(&json!({"v": 1, "page": link}))?;
        } else {
            print(link)?;
        }
        Ok(Exit::Done.into())
    }
}
