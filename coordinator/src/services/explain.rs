//! Explains in words why a job is in its state, and how it fits each worker.

use qlora_engine::{
    DeviceClass, Drain, Engine, Job, JobState, Now, Outcome, Reservation, Worker, fits, suitable,
    verdict,
};
use qlora_proto::words::duration;
use qlora_proto::{ExplainResponse, WorkerVerdict};

pub fn explain(engine: &Engine, job: &Job, now: Now) -> ExplainResponse {
    // Once a job runs or has ended, nobody asks any more who could take it.
    let waits = matches!(job.state, JobState::Queued { .. });
    let workers = engine
        .workers()
        .filter(|_| waits)
        .map(|worker| judge(engine, job, now, worker))
        .collect();
    ExplainResponse {
        summary: summary(engine, job, now),
        workers,
    }
}

fn judge(engine: &Engine, job: &Job, now: Now, worker: &Worker) -> WorkerVerdict {
    let mut verdict = verdict(&job.spec.needs, worker);
    let queued = matches!(job.state, JobState::Queued { .. });
    if verdict.fits && engine.goes_elsewhere(now, job, worker) {
        verdict.reason = format!(
            "{}, but the job failed on it and waits for another one",
            suitable(&job.spec.needs, worker)
        );
    } else if verdict.fits
        && queued
        && let Some(kept) = engine
            .kept_for(now, worker)
            .filter(|kept| kept.job != job.id)
    {
        let suitable = suitable(&job.spec.needs, worker);
        verdict.reason = format!("{suitable}, but {}", kept_free(kept, now));
    }
    let busy_with = worker
        .assigned
        .and_then(|token| engine.job_of(token))
        .filter(|_| verdict.fits && worker.connected);
    if let Some(other) = busy_with.filter(|other| *other != job.id) {
        let suitable = suitable(&job.spec.needs, worker);
        verdict.reason = format!("{suitable}, and busy with job {other}");
    }
    let takes_part = verdict.fits && worker.connected;
    if let Some(drain) = worker.drained.as_ref().filter(|_| takes_part) {
        let suitable = suitable(&job.spec.needs, worker);
        verdict.reason = format!("{suitable}, but {}", drained(drain, now));
    }
    WorkerVerdict {
        worker: worker.name.clone(),
        fits: verdict.fits,
        reason: verdict.reason,
    }
}

/// That an operator has drained a worker, why and since when.
fn drained(drain: &Drain, now: Now) -> String {
    let seconds = now.wall.0.saturating_sub(drain.since.0) as f64 / 1000.0;
    format!("was drained {} ago: {}", duration(seconds), drain.reason)
}

/// What a worker waits for, and which jobs may use it meanwhile.
fn kept_free(kept: Reservation, now: Now) -> String {
    let job = kept.job;
    match kept
        .starts
        .map(|starts| starts.0.saturating_sub(now.steady.0).div_ceil(60_000))
    {
        None => format!("is kept free for job {job}, which starts on several together"),
        Some(minutes) => format!(
            "is kept free for job {job}, which starts on several together in about {minutes} min; a job whose resources.max_minutes is less runs before it"
        ),
    }
}

/// The reason in one line.
pub fn summary(engine: &Engine, job: &Job, now: Now) -> String {
    let id = job.id;
    match &job.state {
        JobState::Queued { .. } if !job.waits_for.is_empty() => comes_after(job),
        JobState::Queued { not_before } if *not_before > now.steady => {
            held(job, not_before.0 - now.steady.0)
        }
        JobState::Queued { .. } => {
            stands_back(engine, job, now).unwrap_or_else(|| waiting(engine, job))
        }
        JobState::Running { worker, token, .. } => {
            let others = job.attempt(*token).into_iter().flat_map(|a| &a.others);
            let with: String = others.map(|m| format!(", {}", m.worker)).collect();
            let number = job.attempt_number(*token).unwrap_or_default();
            // What keeps it from its next step.
            let phase = Some(job.progress.phase.as_str());
            let phase = phase.filter(|phase| !matches!(*phase, "" | "training"));
            let phase = phase.map(|phase| format!(": {phase}")).unwrap_or_default();
            format!("job {id} runs on {worker}{with} as attempt {number}{phase}")
        }
        JobState::Paused { reason, .. } => {
            format!("job {id} is paused: {reason}; it goes on with: qlora-ctl resume {id}")
        }
        JobState::Succeeded { .. } => format!("job {id} has succeeded"),
        JobState::Failed { reason, .. } => format!("job {id} has failed: {reason}"),
        JobState::Cancelled { reason, .. } => format!("job {id} was cancelled: {reason}"),
    }
}

/// Why `job` is not tried again at once, and for how long, in milliseconds.
fn held(job: &Job, ms: u64) -> String {
    let end = job.attempts.last().and_then(|attempt| attempt.end.as_ref());
    let why = end
        .filter(|end| !end.message.is_empty())
        .map(|end| format!(": {}", end.message))
        .unwrap_or_default();
    // Losses before an attempt that ended otherwise do not hold the job now.
    let lost = match (end.map(|end| end.outcome), job.lost_in_a_row) {
        (Some(Outcome::Lost), n @ 2..) => {
            format!(" ({n} workers were lost with it one after another)")
        }
        _ => String::new(),
    };
    format!(
        "job {} waits {:.0} s before it is tried again{lost}{why}",
        job.id,
        ms as f64 / 1000.0
    )
}

/// Which jobs have to end before `job`.
fn comes_after(job: &Job) -> String {
    let ids: Vec<String> = job.waits_for.iter().map(ToString::to_string).collect();
    let (jobs, have) = match ids.len() {
        1 => ("job", "has"),
        _ => ("jobs", "have"),
    };
    let (id, ids) = (job.id, ids.join(", "));
    if job.spec.after.any {
        format!("job {id} waits until {jobs} {ids} {have} ended, in whatever way")
    } else {
        format!(
            "job {id} waits until {jobs} {ids} {have} succeeded; if one fails or is cancelled, it is cancelled too"
        )
    }
}

/// Why `job` does not start whoever is free: the queue is drained, or its owner has as many that
/// run as it may have.
fn stands_back(engine: &Engine, job: &Job, now: Now) -> Option<String> {
    let id = job.id;
    if let Some(drain) = engine.queue_drain() {
        let drained = drained(drain, now);
        return Some(format!(
            "job {id} waits: the queue {drained}; no job starts until: qlora-ctl undrain --queue"
        ));
    }
    let limit = engine.limits().max_running_per_user?;
    engine.waits_for_a_place(now, job).then(|| {
        let running = engine.usage(&job.spec.owner).running;
        let owner = match job.spec.owner.as_str() {
            "" => "its user".to_owned(),
            name => format!("user {name}"),
        };
        format!(
            "job {id} waits: {owner} may have {limit} running and has {running}, and older ones of that user come first; it starts once enough of them have ended, or with a greater --max-running-per-user of the coordinator"
        )
    })
}

/// What a job that may start waits for.
fn waiting(engine: &Engine, job: &Job) -> String {
    let (id, wanted) = (job.id, job.spec.needs.workers.max(1));
    if engine.workers().next().is_none() {
        return format!(
            "job {id} waits: no worker has registered; start one with: qlora-worker --coordinator ADDR"
        );
    }
    let fitting = most_of_one_kind(engine, job);
    let before = match engine.queued_before(id) {
        0 => "it is next in the queue".to_owned(),
        1 => "1 job is before it".to_owned(),
        n => format!("{n} jobs are before it"),
    };
    match (wanted, fitting) {
        (_, 0) => format!("job {id} waits: {}", none_ready(engine, job)),
        (1, _) => format!("job {id} waits for a suitable worker to be free; {before}"),
        (n, there) if there < n => format!(
            "job {id} waits for {n} workers of one kind, and {there} that {} connected: start {} more, or set resources.workers to {there}",
            if there == 1 {
                "is suitable is"
            } else {
                "are suitable are"
            },
            n - there
        ),
        (n, _) => format!(
            "job {id} waits until {n} suitable workers of one kind are free together; {before}"
        ),
    }
}

/// Why no worker could take `job` even if all were free.
fn none_ready(engine: &Engine, job: &Job) -> String {
    let suitable = engine.workers().filter(|w| fits(&job.spec.needs, w));
    not_ready(&suitable.map(|w| w.connected).collect::<Vec<_>>())
}

/// The same of suitable workers, none of which takes work: whether each is connected.
fn not_ready(connected: &[bool]) -> String {
    let draining = connected.iter().filter(|connected| **connected).count();
    match (connected.len(), draining) {
        (0, _) => "no worker is suitable".into(),
        (1, 0) => "the only suitable worker has not been heard of lately".into(),
        (1, _) => "the only suitable worker takes no new work".into(),
        (all, 0) => format!("the {all} suitable workers have not been heard of lately"),
        (all, draining) if draining == all => {
            format!("the {all} suitable workers take no new work")
        }
        (all, draining) => format!(
            "of {all} suitable workers, {} not been heard of lately and {} no new work",
            verb(all - draining, "has", "have"),
            verb(draining, "takes", "take")
        ),
    }
}

fn verb(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// How many connected workers of one device class fit, of the class that has most.
fn most_of_one_kind(engine: &Engine, job: &Job) -> usize {
    let fits = |w: &&Worker| w.connected && w.takes_work() && fits(&job.spec.needs, w);
    let of = |class: DeviceClass| {
        engine
            .workers()
            .filter(|w| w.platform.device == class)
            .filter(fits)
            .count()
    };
    [DeviceClass::Cpu, DeviceClass::Cuda, DeviceClass::Metal]
        .into_iter()
        .map(of)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use qlora_engine::{
        Attempt, AttemptEnd, Event, Holder, JobId, JobKind, JobSpec, Limits, Millis, Platform,
        Response, Token,
    };

    use super::*;

    /// A job that ended its attempts with `outcomes`, one after another, and of which `lost` losses
    /// count.
    fn job(outcomes: &[Outcome], lost: u32) -> Job {
        let spec = JobSpec {
            kind: JobKind::Train,
            max_retries: 9,
            ..JobSpec::noop("")
        };
        let mut job = Job::new(JobId(7), spec, Now::both(0));
        let attempt = |outcome: &Outcome| {
            let holder = Holder {
                worker: "a".into(),
                instance: "1".into(),
                session: None,
            };
            let end = AttemptEnd {
                at: Millis(0),
                outcome: *outcome,
                message: "why".into(),
                code: String::new(),
            };
            Attempt {
                end: Some(end),
                ..Attempt::new(Token(1), holder, Vec::new(), Millis(0))
            }
        };
        job.attempts = outcomes.iter().map(attempt).collect();
        job.lost_in_a_row = lost;
        job
    }

    #[test]
    fn losses_are_told_of_a_job_that_is_held_for_them_and_of_no_other() {
        use Outcome::{Failed, Lost, NoRoom};
        for (outcomes, lost, told) in [
            (
                &[Lost, Lost, Lost][..],
                3,
                Some("3 workers were lost with it one after another"),
            ),
            (
                &[Failed, Lost, Lost],
                2,
                Some("2 workers were lost with it one after another"),
            ),
            (&[Lost, Lost, Failed], 2, None),
            (&[Lost, Lost, NoRoom], 2, None),
            // It has saved something since the losses before the last one.
            (&[Lost, Lost, Lost], 1, None),
            (&[], 0, None),
        ] {
            let said = held(&job(outcomes, lost), 4_000);
            assert!(said.starts_with("job 7 waits 4 s"), "{said}");
            assert_eq!(
                said.contains("lost with it"),
                told.is_some(),
                "{outcomes:?}: {said}"
            );
            assert!(
                told.is_none_or(|told| said.contains(told)),
                "{outcomes:?}: {said}"
            );
        }
    }

    #[test]
    fn what_a_job_comes_after_is_named_and_how_it_has_to_end() {
        let mut job = job(&[], 0);
        job.waits_for = vec![JobId(4)];
        let said = comes_after(&job);
        assert_eq!(
            said,
            "job 7 waits until job 4 has succeeded; if one fails or is cancelled, it is cancelled too"
        );
        job.waits_for.push(JobId(5));
        job.spec.after.any = true;
        let said = comes_after(&job);
        assert_eq!(
            said,
            "job 7 waits until jobs 4, 5 have ended, in whatever way"
        );
    }

    #[test]
    fn a_job_beyond_its_users_limit_says_so_and_what_would_change_it() {
        let limits = Limits {
            max_running_per_user: Some(0),
            ..Limits::default()
        };
        let mut waits = job(&[], 0);
        waits.spec.owner = "ann".into();
        let now = Now::both(0);
        let engine = |limits| Engine::new(limits, vec![waits.clone()], now, [1; 32]);
        let mut limited = engine(limits);
        // As long as it fits no worker, that is what it waits for.
        assert_eq!(stands_back(&limited, &waits, now), None);
        let (registered, _) = limited.handle(now, register());
        assert!(matches!(registered, Response::Registered { .. }));
        let said = stands_back(&limited, &waits, now).expect("a reason");
        assert!(
            said.contains("user ann may have 0 running and has 0")
                && said.contains("--max-running-per-user"),
            "{said}"
        );
        let mut free = engine(Limits::default());
        free.handle(now, register());
        assert_eq!(stands_back(&free, &waits, now), None);
        let reason = "upgrade".into();
        free.handle(now, Event::DrainQueue { reason });
        let said = summary(&free, &waits, now);
        assert!(
            said.contains("the queue was drained 0 s ago: upgrade"),
            "{said}"
        );
    }

    fn register() -> Event {
        let platform = Platform {
            device: DeviceClass::Cpu,
            device_name: String::new(),
            device_memory: 1,
            device_memory_free: None,
            compute_capability: String::new(),
            driver: String::new(),
            cpu_model: String::new(),
            cpu_cores: 1,
            memory: 1,
            disk_free: None,
            bf16: false,
            flash_attention: false,
            os: String::new(),
            labels: Default::default(),
            version: String::new(),
            host: String::new(),
            device_id: String::new(),
            models: Default::default(),
        };
        Event::Register {
            name: "a".into(),
            instance: "1".into(),
            previous: None,
            platform: Box::new(platform),
            running: None,
        }
    }

    #[test]
    fn suitable_workers_that_take_nothing_are_not_called_unsuitable() {
        for (connected, wanted) in [
            (&[][..], "no worker is suitable"),
            (
                &[false],
                "the only suitable worker has not been heard of lately",
            ),
            (&[true], "the only suitable worker takes no new work"),
            (
                &[false, false],
                "the 2 suitable workers have not been heard of lately",
            ),
            (&[true, true], "the 2 suitable workers take no new work"),
            (
                &[true, false, true],
                "of 3 suitable workers, 1 has not been heard of lately and 2 take no new work",
            ),
        ] {
            assert_eq!(not_ready(connected), wanted);
        }
    }
}
