//! Rules of what users may ask for, and of jobs that come after others.

use std::collections::BTreeSet;

use qlora_engine::*;

use super::model::{Facts, MAX_QUEUED, MAX_RUNNING};
use crate::world::{SEED, World};

/// Whether nothing may happen to a job any more; said here once more, and not by the engine that is
/// judged.
pub fn has_ended(state: &JobState) -> bool {
    match state {
        JobState::Queued { .. } | JobState::Running { .. } | JobState::Paused { .. } => false,
        JobState::Succeeded { .. } | JobState::Failed { .. } | JobState::Cancelled { .. } => true,
    }
}

/// A job starts once those have ended that it comes after, as they had to.
pub fn check_that_others_have_ended(engine: &Engine, facts: &mut Facts, job: &Job) {
    let Some(after) = facts.after.get(&job.id).cloned() else {
        return;
    };
    for id in &after.jobs {
        // It may have ended by what is looked at only after this.
        let state = engine.job(*id).map(|other| &other.state);
        let now = state.filter(|state| has_ended(state));
        let now = now.map(|state| matches!(state, JobState::Succeeded { .. }));
        let succeeded = now.or_else(|| facts.succeeded.get(id).copied());
        assert!(
            succeeded.is_some_and(|succeeded| succeeded || after.any),
            "{job:?} starts before job {id} has ended as it has to"
        );
        facts.see("a dependent starts");
    }
}

/// What the jobs of `owner` amount to, counted here once more.
pub fn count(engine: &Engine, owner: &str) -> Usage {
    let mut usage = Usage::default();
    for job in engine.jobs().filter(|job| job.spec.owner == owner) {
        let attempt = job.current_token().and_then(|token| job.attempt(token));
        match (has_ended(&job.state), attempt) {
            (true, _) => {}
            (false, None) => usage.waiting += 1,
            (false, Some(attempt)) => {
                usage.running += 1;
                usage.workers += u64::from(attempt.size());
            }
        }
    }
    usage
}

/// No owner has more running than it may, and the engine has counted right.
pub fn check_owners(engine: &Engine) {
    let owners: BTreeSet<&str> = engine.jobs().map(|job| job.spec.owner.as_str()).collect();
    for owner in owners {
        let usage = count(engine, owner);
        assert_eq!(engine.usage(owner), usage, "what {owner} holds");
        assert!(usage.running <= MAX_RUNNING, "{owner} has {usage:?}");
    }
}

/// A coordinator that has read the briefs of ended jobs puts the others in the same order as one that
/// has read all of the ended jobs.
pub fn check_shares(world: &World) {
    let jobs: Vec<Job> = world.disk.jobs.values().cloned().collect();
    let of_all = Engine::new(world.disk.limits, jobs, world.now, SEED);
    for job in world.engine.jobs() {
        assert_eq!(
            world.engine.queued_before(job.id),
            of_all.queued_before(job.id),
            "the place of {job:?}"
        );
    }
}

/// Every job that may be offered to a worker has a place of its own.
pub fn check_places(engine: &Engine) {
    let is_offered =
        |job: &&Job| matches!(job.state, JobState::Queued { .. }) && job.waits_for.is_empty();
    let offered = engine.jobs().filter(is_offered);
    let mut places: Vec<usize> = offered.map(|job| engine.queued_before(job.id)).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        Vec::from_iter(0..places.len()),
        "places in the queue"
    );
}

/// A submission is taken or refused by how many jobs of its owner waited before.
pub fn check_queue_limit(waiting: Option<u64>, response: &Response) {
    let Some(waiting) = waiting else { return };
    match response {
        Response::Submitted { created: true, .. } => {
            assert!(
                waiting < MAX_QUEUED,
                "{waiting} waited and one more was taken"
            );
        }
        Response::Refused(Refusal::QueueFull { .. }) => {
            assert!(
                waiting >= MAX_QUEUED,
                "{waiting} waited and one more was refused"
            );
        }
        _ => {}
    }
}

/// Job `id` waits for exactly those that have not ended, and does not outlive one that has ended
/// otherwise than it had to.
pub fn check_dependencies(engine: &Engine, facts: &mut Facts, id: JobId) {
    let (Some(job), Some(after)) = (engine.job(id), facts.after.get(&id).cloned()) else {
        return;
    };
    if has_ended(&job.state) {
        assert!(job.waits_for.is_empty(), "{job:?} has ended and waits");
        return;
    }
    let open = |other: &JobId| !facts.succeeded.contains_key(other);
    let wanted: BTreeSet<JobId> = after.jobs.iter().copied().filter(open).collect();
    assert_eq!(
        BTreeSet::from_iter(job.waits_for.iter().copied()),
        wanted,
        "{job:?}"
    );
    let is_bad = |other: &JobId| facts.succeeded.get(other) == Some(&false);
    let bad = after.jobs.iter().find(|other| is_bad(other));
    assert!(after.any || bad.is_none(), "{job:?} outlives {bad:?}");
    if bad.is_some() {
        facts.see("a dependency ends otherwise");
    }
}
