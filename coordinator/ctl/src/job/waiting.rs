//! Why a queued job waits, in the words of the coordinator's placement.

use qlora_client::{Client, console};
use qlora_proto::{ExplainRequest, ExplainResponse, GetJobRequest, Job, JobState, WorkerVerdict};

use crate::context::Context;
use crate::error::CtlError;

/// Verdicts that a line has room for.
const VERDICTS: usize = 3;

/// [`waiting`] beside an answer that stands without it: where the coordinator cannot be asked,
/// people are told so.
pub async fn waiting_if_known(
    context: &Context,
    client: &mut Client,
    job: Job,
) -> (Job, Option<ExplainResponse>) {
    match waiting(context, client, job.clone()).await {
        Ok(found) => found,
        Err(e) => {
            context.say(format!("why job {} waits is not known: {e}", job.id));
            (job, None)
        }
    }
}

/// `job`, and what `explain` says of it where it waits: both of one moment, so that no job is
/// queued beside a reason that tells where it runs. One that has gone on meanwhile is given as it
/// is by now.
pub async fn waiting(
    context: &Context,
    client: &mut Client,
    mut job: Job,
) -> Result<(Job, Option<ExplainResponse>), CtlError> {
    let fault = context.fault();
    while job.state() == JobState::Queued {
        let why = client
            .jobs
            .explain(ExplainRequest { id: job.id })
            .await
            .map_err(&fault)?
            .into_inner();
        let now = client
            .jobs
            .get_job(GetJobRequest { id: job.id })
            .await
            .map_err(&fault)?
            .into_inner();
        if is_unmoved(&job, &now) {
            return Ok((now, Some(why)));
        }
        job = now;
    }
    Ok((job, None))
}

/// Whether nothing was done with the job between the two.
fn is_unmoved(before: &Job, after: &Job) -> bool {
    (before.state, before.attempts.len()) == (after.state, after.attempts.len())
}

/// The reason in one line.
pub fn reason(job: u64, why: &ExplainResponse) -> String {
    let summary = why
        .summary
        .strip_prefix(&format!("job {job} "))
        .unwrap_or(&why.summary);
    let summary = summary.strip_prefix("waits: ").unwrap_or(summary);
    let verdict =
        |v: &WorkerVerdict| format!("{}: {}", console::line(&v.worker), console::line(&v.reason));
    let mut verdicts: Vec<String> = why.workers.iter().take(VERDICTS).map(verdict).collect();
    if why.workers.len() > VERDICTS {
        verdicts.push(format!("and {} more", why.workers.len() - VERDICTS));
    }
    let summary = console::line(summary);
    if verdicts.is_empty() {
        summary.into_owned()
    } else {
        format!("{summary} ({})", verdicts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_ran_between_two_looks_has_moved() {
        let job = |state: JobState, attempts: usize| Job {
            state: state.into(),
            attempts: vec![Default::default(); attempts],
            ..Job::default()
        };
        let queued = job(JobState::Queued, 1);
        assert!(is_unmoved(&queued, &job(JobState::Queued, 1)));
        for moved in [
            job(JobState::Running, 2),
            job(JobState::Queued, 2),
            job(JobState::Cancelled, 1),
        ] {
            assert!(!is_unmoved(&queued, &moved), "{moved:?}");
        }
    }

    #[test]
    fn a_reason_is_one_line_with_a_few_workers() {
        let verdict = |n: usize| WorkerVerdict {
            worker: format!("w{n}"),
            fits: false,
            reason: "too\nsmall".into(),
        };
        let why = ExplainResponse {
            summary: "job 7 waits: no worker fits".into(),
            workers: (0..5).map(verdict).collect(),
        };
        let said = reason(7, &why);
        assert_eq!(
            said,
            "no worker fits (w0: too small; w1: too small; w2: too small; and 2 more)"
        );
    }
}
