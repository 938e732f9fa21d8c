//! A coordinator that starts over many ended jobs.
//!
//! The jobs are written by the store's own calls, as a coordinator would have left them.

use std::path::Path;
use std::time::{Duration, Instant};

use qlora_client::Client;
use qlora_engine::{
    Attempt, AttemptEnd, Holder, Job, JobId, JobSpec, JobState, Now, Outcome, Token,
};
use qlora_proto::{GetJobRequest, JobState as WireState, ListJobsRequest};
use qlora_store::{JobStore, SqliteStore, Write};
use qlora_tests::World;

use crate::arguments::Finished;
use crate::process::memory;
use crate::report::Report;
use crate::worker::submit;

/// Jobs of one transaction.
const BATCH: u64 = 1000;
/// One job in so many has failed.
const FAILED: u64 = 10_000;
/// When the first job ended.
const FIRST_MS: u64 = 1_760_000_000_000;

pub async fn run(wanted: Finished, report: &mut Report) {
    let mut world = World::new(&[]);
    world.coordinator.stop();
    write(&world.path("state"), wanted.jobs).await;
    let begin = Instant::now();
    // The address is looked for every 20 ms.
    world.restart_coordinator();
    report.row("start", begin.elapsed().as_secs_f64(), "s");
    let pid = world.coordinator.pid();
    report.row("memory after the start", memory(pid), "MiB");
    let mut client = Client::new(&world.address, None).expect("a client");
    let middle = wanted.jobs / 2 + 1;
    let lists = [
        ("the newest 100", vec![], 0),
        ("100 from the middle", vec![], middle),
        ("100 that succeeded", vec![WireState::Succeeded], 0),
        ("those that failed", vec![WireState::Failed], 0),
        ("those that are queued", vec![WireState::Queued], 0),
    ];
    for (what, states, before) in lists {
        let request = ListJobsRequest {
            states: states.into_iter().map(Into::into).collect(),
            limit: 100,
            before,
        };
        let mut times = list(&mut client, &request, wanted.lists).await;
        report.percentiles(&format!("list: {what}"), &mut times);
    }
    let mut times = show(&mut client, middle, wanted.lists).await;
    report.percentiles("an ended job", &mut times);
    let mut times = Vec::with_capacity(wanted.lists);
    for _ in 0..wanted.lists {
        let begin = Instant::now();
        submit(&mut client).await;
        times.push(begin.elapsed());
    }
    report.percentiles("a submission", &mut times);
    report.row("memory at the end", memory(pid), "MiB");
}

async fn list(client: &mut Client, request: &ListJobsRequest, times: usize) -> Vec<Duration> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        let answer = client.jobs.list_jobs(request.clone()).await;
        taken.push(begin.elapsed());
        answer.expect("a list");
    }
    taken
}

async fn show(client: &mut Client, id: u64, times: usize) -> Vec<Duration> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        let answer = client.jobs.get_job(GetJobRequest { id }).await;
        taken.push(begin.elapsed());
        answer.expect("a job");
    }
    taken
}

async fn write(state: &Path, jobs: u64) {
    let store = SqliteStore::open(state).await.expect("the state folder");
    for first in (1..=jobs).step_by(BATCH as usize) {
        let last = (first + BATCH - 1).min(jobs);
        let writes = (first..=last).map(|id| Write::SaveJob(Box::new(ended(id))));
        store.apply(writes.collect()).await.expect("ended jobs");
    }
}

/// A job that does nothing, as it is once it has.
fn ended(id: u64) -> Job {
    let now = Now::both(FIRST_MS + id);
    let mut job = Job::new(JobId(id), spec(), now);
    let holder = Holder {
        worker: "w0".into(),
        instance: "w0".into(),
        session: None,
    };
    let mut attempt = Attempt::new(Token(id << 32 | 7), holder, Vec::new(), now.wall);
    let fails = id.is_multiple_of(FAILED);
    let outcome = if fails {
        Outcome::Failed
    } else {
        Outcome::Succeeded
    };
    attempt.end = Some(AttemptEnd {
        at: now.wall,
        outcome,
        message: String::new(),
        code: String::new(),
    });
    job.attempts.push(attempt);
    job.state = if fails {
        JobState::Failed {
            at: now.wall,
            reason: "it failed".into(),
            code: String::new(),
        }
    } else {
        JobState::Succeeded { at: now.wall }
    };
    job.progress.phase = job.state.word().into();
    job
}

fn spec() -> JobSpec {
    JobSpec::noop("noop")
}
