//! From any state, every job that fits the workers ends once they stay healthy and deadlines are
//! followed.

use qlora_engine::*;

use super::model::History;
use crate::world::LEASE;

/// More than any history needs.
const ROUNDS: usize = 5_000;

pub fn ends_every_job_that_fits(history: &mut History) {
    for machine in &mut history.machines {
        machine.draining = false;
    }
    history.say(Event::UndrainQueue);
    let drained: Vec<String> = history.world.engine.drains().keys().cloned().collect();
    for worker in drained {
        history.say(Event::Undrain { worker });
    }
    for _ in 0..ROUNDS {
        resume_all(history);
        let worked: Vec<bool> = (0..history.machines.len())
            .map(|w| work(history, w))
            .collect();
        if worked.contains(&true) {
            continue;
        }
        if history
            .world
            .engine
            .jobs()
            .all(|job| job.state.is_final() || !can_end(history, job))
        {
            return;
        }
        wait(history);
    }
    let waits: Vec<&Job> = history
        .world
        .engine
        .jobs()
        .filter(|job| !job.state.is_final())
        .collect();
    panic!("these do not end: {waits:#?}");
}

/// Nobody leaves a job paused.
fn resume_all(history: &mut History) {
    let is_paused = |job: &&Job| matches!(job.state, JobState::Paused { .. });
    let paused: Vec<JobId> = history
        .world
        .engine
        .jobs()
        .filter(is_paused)
        .map(|job| job.id)
        .collect();
    for job in paused {
        history.say(Event::Resume { job, from: None });
    }
}

/// What a healthy worker does next; false where it only waits.
fn work(history: &mut History, w: usize) -> bool {
    let machine = &history.machines[w];
    match machine.running {
        _ if machine.session.is_none() || machine.lease.is_none() => {
            history.register(w);
            // Where a stranger had its name, that one's lease has to end first.
            history.machines[w].session.is_some()
        }
        Some(_) if machine.stops => {
            history.obey(w);
            true
        }
        Some(token) if machine.held == Some(Wanted::GoOn) => finish(history, w, token),
        _ if machine.held.is_none() => {
            history.sync(w);
            true
        }
        _ => false,
    }
}

/// Ends its part of an attempt; the first of several is the last to do so.
fn finish(history: &mut History, w: usize, token: Token) -> bool {
    let id = history
        .world
        .engine
        .job_of(token)
        .expect("a current attempt: it was told to go on");
    let attempt = history.world.job(id).attempt(token).expect("the attempt");
    let rank = attempt
        .rank(history.machines[w].name)
        .expect("its place in it");
    if rank == 0 && attempt.others.iter().any(|member| !member.done) {
        return false;
    }
    history.finish(token, rank, Outcome::Succeeded, true);
    true
}

/// Time passes up to the next deadline, or until leases are renewed.
fn wait(history: &mut History) {
    let renewal = history.now() + LEASE / 3;
    let deadline = history
        .world
        .engine
        .next_deadline(history.world.now.steady)
        .map_or(renewal, |at| at.0);
    history.pass(deadline.min(renewal) - history.now());
    for w in 0..history.machines.len() {
        if history.machines[w].held.is_some() {
            history.sync(w);
        }
    }
}

/// Whether `job` fits, and every job that it waits for.
fn can_end(history: &History, job: &Job) -> bool {
    let mut others = job.waits_for.iter().map(|id| history.world.job(*id));
    fits(history, job) && others.all(|other| can_end(history, other))
}

/// Whether enough workers of one class are there for `job`.
fn fits(history: &History, job: &Job) -> bool {
    let fitting: Vec<&Worker> = history
        .world
        .engine
        .workers()
        .filter(|w| w.connected && verdict(&job.spec.needs, w).fits)
        .collect();
    let of = |class| {
        fitting
            .iter()
            .filter(|w| w.platform.device == class)
            .count()
    };
    [DeviceClass::Cpu, DeviceClass::Cuda]
        .into_iter()
        .any(|class| of(class) >= job.spec.needs.workers.max(1))
}
