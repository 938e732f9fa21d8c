use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qlora_client::console;
use qlora_proto::{Event, SubscribeRequest};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print, print_json};
use qlora_proto::numbers::span;

/// Print who changed what, and from where, oldest first.
///
/// A token is called by its name, or by its number where it has none; the one that the coordinator
/// made at its first start is `local`.
#[derive(Debug, Args)]
pub struct Audit {
    /// Only what happened since, such as 7d, 12h or 90m ago.
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = span)]
    since: Option<Duration>,
}

impl Audit {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let now = jiff::Timestamp::now().as_millisecond();
        let from = self.since.map_or(i64::MIN, |since| {
            now.saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        });
        let request = SubscribeRequest {
            after: 0,
            until_now: true,
            audit: true,
        };
        let mut client = context.client().await?;
        let answer = client.events.subscribe(request).await;
        let mut events = answer.map_err(context.fault())?.into_inner();
        let mut is_empty = true;
        while let Some(event) = events.message().await.map_err(context.fault())? {
            if event.unix_ms < from {
                continue;
            }
            is_empty = false;
            if context.global.json {
                print_json(&json::event(&event))?;
            } else {
                print(shown(&event))?;
            }
        }
        if is_empty {
            context.say("nobody has changed anything");
        }
        Ok(Exit::Done.into())
    }
}

fn shown(event: &Event) -> String {
    let about = match (event.job, event.worker.as_str()) {
        (0, "") => String::new(),
        (0, worker) => format!("  worker {}", console::line(worker)),
        (job, _) => format!("  job {job}"),
    };
    let text = if event.text.is_empty() {
        String::new()
    } else {
        format!(": {}", console::line(&event.text))
    };
    format!(
        "{} {:<14} {} from {}{about}  {}{text}",
        human::time(event.unix_ms),
        console::line(&event.act),
        console::line(&event.who),
        console::line(&event.from),
        console::line(&event.kind),
    )
}
