//! Why a queued job waits, in the words of the coordinator's placement.

use qlora_client::{Client, console};
use qlora_proto::{ExplainRequest, ExplainResponse, Job, JobState, WorkerVerdict};

use crate::context::Context;
use crate::error::CtlError;

/// Verdicts that a line has room for.
const VERDICTS: usize = 3;

/// [`waiting`] beside an answer that stands without it: where the coordinator cannot be asked, people are told so.
pub async fn waiting_if_known(context: &Context, client: &mut Client, job: &Job) -> Option<ExplainResponse> {
    match waiting(context, client, job).await {
        Ok(why) => why,
        Err(e) => {
            context.say(format!("why job {} waits is not known: {e}", job.id));
            None
        }
    }
}

/// What `explain` says of `job`; nothing where it does not wait.
pub async fn waiting(context: &Context, client: &mut Client, job: &Job) -> Result<Option<ExplainResponse>, CtlError> {
    if job.state() != JobState::Queued {
        return Ok(None);
    }
    let answer = client.jobs.explain(ExplainRequest { id: job.id }).await;
    Ok(Some(answer.map_err(context.fault())?.into_inner()))
}

/// The reason in one line.
pub fn reason(job: u64, why: &ExplainResponse) -> String {
    let summary = why.summary.strip_prefix(&format!("job {job} ")).unwrap_or(&why.summary);
    let summary = summary.strip_prefix("waits: ").unwrap_or(summary);
    let verdict = |v: &WorkerVerdict| format!("{}: {}", console::line(&v.worker), console::line(&v.reason));
    let mut verdicts: Vec<String> = why.workers.iter().take(VERDICTS).map(verdict).collect();
    if why.workers.len() > VERDICTS {
        verdicts.push(format!("and {} more", why.workers.len() - VERDICTS));
    }
    let summary = console::line(summary);
    if verdicts.is_empty() { summary.into_owned() } else { format!("{summary} ({})", verdicts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_with_a_few_workers() {
        let verdict = |n: usize| WorkerVerdict { worker: format!("w{n}"), fits: false, reason: "too\nsmall".into() };
        let why =
            ExplainResponse { summary: "job 7 waits: no worker fits".into(), workers: (0..5).map(verdict).collect() };
        let said = reason(7, &why);
        assert_eq!(said, "no worker fits (w0: too small; w1: too small; w2: too small; and 2 more)");
    }
}
