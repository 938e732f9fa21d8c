//! Rules that hold in every reachable state, judged by what was acknowledged.

use std::collections::BTreeSet;

use qlora_engine::*;

use super::model::{Facts, History};
use super::terms::{
    check_dependencies, check_owners, check_places, check_that_others_have_ended, has_ended,
};

impl Facts {
    /// Remembers what was acknowledged, and judges the answer by what was before.
    pub fn note(&mut self, event: &Event, response: &Response, effects: &[Effect]) {
        self.note_effects(effects);
        match (event, response) {
            (Event::Submit { spec }, Response::Submitted { job, created }) => {
                self.submitted(spec, *job, *created)
            }
            (
                Event::Submit { .. } | Event::Retry { .. },
                Response::Refused(Refusal::QueueFull { .. }),
            ) => self.see("a queue is full"),
            (Event::Submit { spec }, Response::Refused(Refusal::UnknownDependency(id))) => {
                assert!(spec.after.jobs.contains(id) && !self.jobs.contains(id));
            }
            (Event::Submit { spec }, Response::Refused(Refusal::DependencyEnded { job, .. })) => {
                assert!(!spec.after.any && self.succeeded.get(job) == Some(&false));
                self.see("a dependency has ended otherwise");
            }
            (Event::DrainQueue { .. }, Response::Done) => {
                self.drained.insert(Engine::QUEUE.into());
            }
            (Event::UndrainQueue, Response::Done) => {
                self.drained.remove(Engine::QUEUE);
            }
            (Event::Submit { spec }, Response::Refused(Refusal::KeyReused(_))) => {
                let key = spec
                    .idempotency_key
                    .as_ref()
                    .and_then(|key| self.keys.get(key));
                assert!(
                    key.is_some_and(|(_, hash)| *hash != spec.config_hash),
                    "a key was refused: {spec:?}"
                );
                self.see("a key is refused");
            }
            (
                Event::Commit {
                    token, artifact, ..
                },
                Response::Done,
            ) if artifact.kind == ArtifactKind::Checkpoint => {
                let step = self.checkpoints.entry(job_of(effects, *token)).or_default();
                assert!(
                    artifact.step >= *step,
                    "a checkpoint behind the last one was taken"
                );
                *step = artifact.step;
                self.see("a checkpoint is taken");
            }
            (
                Event::Retry {
                    job,
                    from_start,
                    idempotency_key,
                    ..
                },
                _,
            ) => {
                let asked = format!("retry of {job}, from its start: {from_start}");
                self.retried(*job, asked, idempotency_key.as_ref(), response);
            }
            (Event::RemoveJob { job }, Response::Done) => self.removed(*job),
            (Event::Prune { job, what, .. }, Response::Done) => self.pruned(*job, *what),
            (
                Event::Resume {
                    job,
                    from: Some(step),
                },
                Response::Done,
            ) => {
                self.checkpoints.insert(*job, *step);
                self.see("a job goes back to a step");
            }
            (Event::Commit { .. }, Response::Refused(Refusal::StepWentBack { .. })) => {
                self.see("a step is behind")
            }
            (Event::Offer { .. }, Response::Done) => self.see("an offer is taken"),
            (Event::RemoveWorker { name }, Response::Done) => {
                self.drained.remove(name);
                self.see("a worker is removed");
            }
            (Event::Drain { worker, .. }, Response::Done) => {
                self.drained.insert(worker.clone());
            }
            (Event::Undrain { worker }, Response::Done) => {
                self.drained.remove(worker);
            }
            (Event::Finish { .. }, Response::Refused(Refusal::NoResult { .. })) => {
                self.see("a result is missing")
            }
            (_, Response::Refused(Refusal::StaleToken(_))) => self.see("a token is stale"),
            (_, Response::Batch { is_new: false, .. }) => self.see("a batch comes twice"),
            _ => {}
        }
    }

    fn submitted(&mut self, spec: &JobSpec, job: JobId, created: bool) {
        let known = spec
            .idempotency_key
            .as_ref()
            .and_then(|key| self.keys.get(key))
            .cloned();
        match (known, created) {
            (Some((first, hash)), false) => {
                assert_eq!(
                    (first, &hash),
                    (job, &spec.config_hash),
                    "a key gave another job"
                );
                self.see("a key is known");
            }
            (None, true) => {
                assert!(self.jobs.insert(job), "the number {job} was given twice");
                self.after.insert(job, spec.after.clone());
                let request = (job, spec.config_hash.clone());
                self.keys
                    .extend(spec.idempotency_key.clone().map(|key| (key, request)));
            }
            other => panic!("{other:?}: {spec:?}"),
        }
    }

    /// The job `job` does the work of `old` once more, and begins with its newest checkpoint or
    /// with none.
    fn retried(&mut self, old: JobId, asked: String, key: Option<&String>, response: &Response) {
        let known = key.and_then(|key| self.keys.get(key));
        let (job, created) = match response {
            Response::Submitted { job, created } => (*job, *created),
            Response::Refused(Refusal::KeyReused(_)) => {
                assert!(
                    known.is_some_and(|(_, before)| *before != asked),
                    "a key of a retry was refused: {known:?}"
                );
                return;
            }
            _ => return,
        };
        let request = (job, asked);
        assert_eq!(
            created,
            known.is_none(),
            "a key of a retry is known: {known:?}"
        );
        if let Some(known) = known {
            assert_eq!(*known, request, "a key gave another job");
            return;
        }
        assert!(
            self.ended.contains_key(&old),
            "a job was done again before its end"
        );
        assert!(self.jobs.insert(job), "the number {job} was given twice");
        self.retries.insert(job, old);
        self.keys.extend(key.map(|key| (key.clone(), request)));
        self.see("a job is done again");
    }

    fn removed(&mut self, job: JobId) {
        assert!(
            self.ended.remove(&job).is_some() && self.jobs.remove(&job),
            "a job was removed before its end"
        );
        self.checkpoints.remove(&job);
        self.keys.retain(|_, (of, _)| *of != job);
        self.see("a job is removed");
    }

    /// Of an ended job nothing changes but what was to go.
    fn pruned(&mut self, job: JobId, what: Prune) {
        let Some(ended) = self.ended.get_mut(&job) else {
            panic!("a job was pruned before its end");
        };
        match what {
            Prune::Job => self.removed(job),
            Prune::Artifacts if ended.artifacts.is_empty() => {}
            Prune::Artifacts => {
                ended.artifacts.clear();
                ended.pruned.artifacts = true;
                self.checkpoints.remove(&job);
            }
            Prune::Records => ended.pruned.records = true,
        }
    }

    pub fn note_effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Release { .. } => self.see("a checkpoint goes"),
                Effect::Record { kind, .. } => self.see(kind.word()),
                _ => {}
            }
        }
    }
}

/// The job that an accepted commit has changed.
fn job_of(effects: &[Effect], token: Token) -> JobId {
    let saved = effects.iter().find_map(|effect| {
        if let Effect::Save(id) = effect {
            Some(*id)
        } else {
            None
        }
    });
    saved.unwrap_or_else(|| panic!("a commit of {token:?} is not stored"))
}

/// A worker is given an attempt: a new one, or the one that it has.
pub fn check_assignment(history: &mut History, w: usize, id: JobId, token: Token) {
    let History {
        world,
        facts,
        machines,
        ..
    } = history;
    let job = world.job(id);
    let attempt = job.attempt(token).expect("the attempt that was given");
    assert!(
        attempt.rank(machines[w].name).is_some(),
        "it was given what is another's"
    );
    assert!(
        !facts.in_vain.contains(&token),
        "a token was given that was drawn for what is not durable"
    );
    if facts.tokens.contains(&token) {
        facts.see("an assignment is told again");
        return;
    }
    assert!(
        facts.tokens.iter().all(|earlier| *earlier < token),
        "a token does not grow"
    );
    facts.tokens.push(token);
    assert!(
        !facts.drained.contains(Engine::QUEUE),
        "{job:?} starts though the queue is drained"
    );
    check_that_others_have_ended(&world.engine, facts, job);
    facts.see(if attempt.size() > 1 {
        "several start"
    } else {
        "one starts"
    });
    for holder in attempt.holders() {
        let worker = world
            .engine
            .workers()
            .find(|w| w.name == holder)
            .expect("a worker");
        assert!(
            worker.connected && worker.takes_work() && worker.set_aside().is_none(),
            "{holder} takes no work"
        );
        assert!(!facts.drained.contains(holder), "{holder} is drained");
        assert!(
            verdict(&job.spec.needs, worker).fits,
            "{holder} does not fit {job:?}"
        );
    }
    let model = attempt.size() == 1 && job.spec.needs.model.is_some();
    if model && has_model(&world.engine, machines[w].name, &job.spec.needs) {
        facts.see("a job goes to its model");
    } else if model {
        check_that_nobody_better_waits(&world.engine, job);
        facts.see("a job goes without its model");
    }
}

fn has_model(engine: &Engine, name: &str, needs: &Needs) -> bool {
    engine
        .workers()
        .any(|w| w.name == name && w.has_model_for(needs))
}

/// A worker that has the model of `job`, which another one was given, waits for no work: unless it
/// has other work to take, or the job has failed on it.
fn check_that_nobody_better_waits(engine: &Engine, job: &Job) {
    let waits = |w: &&Worker| {
        w.waiting
            && w.connected
            && w.takes_work()
            && w.set_aside().is_none()
            && w.has_model_for(&job.spec.needs)
            && verdict(&job.spec.needs, w).fits
            && job.attempts.iter().all(|a| a.rank(&w.name).is_none())
    };
    for better in engine.workers().filter(waits) {
        let other_work = engine.jobs().any(|other| {
            matches!(other.state, JobState::Queued { .. })
                && verdict(&other.spec.needs, better).fits
        });
        assert!(
            other_work,
            "{} waits and has the model of {job:?}",
            better.name
        );
    }
}

pub fn check(history: &mut History) {
    let ids = history.world.ids();
    assert_eq!(
        ids, history.facts.jobs,
        "jobs that were acknowledged and jobs that there are"
    );
    for id in ids {
        let job = history.world.job(id).clone();
        check_job(&job, history.now());
        check_against_facts(&job, &mut history.facts);
    }
    for id in Vec::from_iter(history.facts.after.keys().copied()) {
        check_dependencies(&history.world.engine, &mut history.facts, id);
    }
    check_owners(&history.world.engine);
    check_places(&history.world.engine);
    check_holders(history);
    check_leases(history);
    check_drains(history);
}

/// Exactly those are drained of whom an operator has said so, there or not, and the queue likewise.
fn check_drains(history: &History) {
    let engine = &history.world.engine;
    let queue = engine.queue_drain().map(|_| Engine::QUEUE.to_owned());
    let drained = engine.drains().keys().cloned().chain(queue);
    assert_eq!(BTreeSet::from_iter(drained), history.facts.drained);
    for worker in engine.workers() {
        assert_eq!(worker.drained.as_ref(), engine.drains().get(&worker.name));
    }
}

fn check_against_facts(job: &Job, facts: &mut Facts) {
    match facts.ended.get(&job.id) {
        Some(ended) => assert_eq!(job, ended, "a job changed after its end"),
        None if has_ended(&job.state) => {
            let succeeded = matches!(job.state, JobState::Succeeded { .. });
            facts.succeeded.insert(job.id, succeeded);
            facts.ended.insert(job.id, job.clone());
        }
        None => {}
    }
    if let Some(old) = facts.retries.remove(&job.id)
        && let Some(begun) = job.checkpoint()
    {
        let left = facts.ended.get(&old).and_then(Job::checkpoint);
        assert_eq!(Some(begun), left, "a retry begins with what was left");
        facts.checkpoints.insert(job.id, begun.step);
    }
    let committed = facts.checkpoints.get(&job.id).copied();
    assert_eq!(
        job.checkpoint().map(|a| a.step),
        committed,
        "the newest checkpoint is the last that was taken"
    );
}

fn check_job(job: &Job, now: u64) {
    let open: Vec<Token> = job
        .attempts
        .iter()
        .filter(|a| a.end.is_none())
        .map(|a| a.token)
        .collect();
    assert_eq!(
        open,
        Vec::from_iter(job.current_token()),
        "the open attempt is the current one: {job:?}"
    );
    assert!(
        job.attempts.is_sorted_by(|a, b| a.token < b.token),
        "tokens grow: {job:?}"
    );
    let ended = |outcome| {
        let ends = job.attempts.iter().filter_map(|a| a.end.as_ref());
        ends.filter(|end| end.outcome == outcome)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(ended(Outcome::Succeeded).len() <= 1, "two results: {job:?}");
    assert_eq!(
        ended(Outcome::Failed).len() as u32,
        job.failures,
        "failures are counted: {job:?}"
    );
    let counted = ended(Outcome::Lost)
        .iter()
        .filter(|end| !end.message.contains("does not count"))
        .count();
    assert!(
        job.lost_in_a_row as usize <= counted,
        "a loss counts that must not: {job:?}"
    );
    let checkpoints = job
        .artifacts
        .iter()
        .filter(|a| a.kind == ArtifactKind::Checkpoint)
        .count();
    let kept = job.spec.checkpoints_to_keep as usize;
    assert!(
        kept == 0 || checkpoints <= kept,
        "old checkpoints stay: {job:?}"
    );
    match &job.state {
        JobState::Succeeded { .. } if !job.pruned.artifacts => assert_eq!(
            job.missing_result(),
            None,
            "a success without a result: {job:?}"
        ),
        JobState::Running {
            token,
            stopping: None,
            ..
        } => {
            let started = job.attempt(*token).expect("the attempt").started.0;
            let until = job.spec.time_limit.map(|limit| started + limit);
            assert!(
                until.is_none_or(|until| until > now),
                "its time is over and it goes on: {job:?}"
            );
        }
        _ => {}
    }
}

/// Workers hold what attempts say, and nothing that is over; all of an attempt start or none.
fn check_holders(history: &History) {
    let engine = &history.world.engine;
    let mut wanted: Vec<(&str, Token)> = Vec::new();
    for job in engine.jobs() {
        let Some(attempt) = job.current_token().and_then(|token| job.attempt(token)) else {
            continue;
        };
        assert_eq!(
            attempt.size() as usize,
            job.spec.needs.workers.max(1),
            "all start or none: {job:?}"
        );
        assert!(
            attempt.holders().next().is_some(),
            "an attempt that nobody holds goes on: {job:?}"
        );
        wanted.extend(attempt.holders().map(|worker| (worker, attempt.token)));
    }
    wanted.sort();
    let held: Vec<(&str, Token)> = engine
        .workers()
        .filter_map(|w| Some((w.name.as_str(), w.assigned?)))
        .collect();
    assert_eq!(held, wanted, "workers hold what attempts say");
}

/// A session lasts for as long as its lease, and no longer.
fn check_leases(history: &mut History) {
    let now = history.now();
    for machine in &mut history.machines {
        machine.lease = machine.lease.filter(|at| *at > now);
        if machine.lease.is_none() {
            machine.held = None;
        }
        let worker = history
            .world
            .engine
            .workers()
            .find(|w| w.name == machine.name);
        let is_known = worker.is_some_and(|w| w.connected);
        assert_eq!(
            is_known,
            machine.lease.is_some(),
            "{} and its lease at {now}",
            machine.name
        );
    }
}

/// Between deadlines the engine may look about as often as it likes: nothing comes of it.
pub fn check_that_time_alone_changes_nothing(history: &mut History) {
    let workers = |history: &History| history.world.engine.workers().cloned().collect::<Vec<_>>();
    let before = workers(history);
    let effects = history.world.act(Event::Tick).1;
    assert_eq!(
        effects,
        [],
        "something was due at {} and no deadline said so",
        history.now()
    );
    assert_eq!(
        workers(history),
        before,
        "a worker changed without a deadline"
    );
}
