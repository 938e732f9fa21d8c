use std::process::ExitCode;

use clap::Args;
use qlora_proto::numbers::whole;
use qlora_proto::{JobState, ListJobsRequest};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::job::waiting::waiting_if_known;
use crate::output::{human, json, print, print_json};

/// List jobs, newest first.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Only jobs in this state; repeatable.
    #[arg(long, value_parser = ["queued", "running", "paused", "succeeded", "failed", "cancelled"])]
    state: Vec<String>,
    /// Jobs at the most.
    #[arg(long, default_value_t = 50, allow_negative_numbers = true, value_parser = whole::<u32>("a number of jobs", 1..=u32::MAX.into()))]
    limit: u32,
}

impl Jobs {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let all = [
            JobState::Queued,
            JobState::Running,
            JobState::Paused,
            JobState::Succeeded,
            JobState::Failed,
            JobState::Cancelled,
        ];
        let states = all
            .into_iter()
            .filter(|s| self.state.iter().any(|w| w == s.word()))
            .map(Into::into)
            .collect();
        let request = ListJobsRequest {
            states,
            limit: self.limit,
            before: 0,
        };
        let answer = context
            .client()
            .await?
            .jobs
            .list_jobs(request)
            .await
            .map_err(context.fault())?
            .into_inner();
        if context.global.json {
            let mut client = context.client().await?;
            for job in answer.jobs {
                let (job, why) = waiting_if_known(context, &mut client, job).await;
                print_json(&json::job(&job, why.as_ref()))?;
            }
        } else if answer.jobs.is_empty() {
            let which = if self.state.is_empty() {
                "no jobs"
            } else {
                "no jobs in this state"
            };
            context.say(format!(
                "{which}; submit one with: qlora-ctl submit config.yaml --watch"
            ));
        } else {
            print(human::jobs(&answer.jobs))?;
            if let Some(usage) = &answer.usage {
                context.say(human::usage(usage));
            }
            if answer.next > 0 {
                context.say(format!(
                    "older jobs are not shown; --limit {} shows more",
                    self.limit.saturating_mul(2)
                ));
            }
        }
        Ok(Exit::Done.into())
    }
}
