//! Sees everything that happens in a simulation, and says which rule it breaks.
//!
//! It believes nobody: what was acknowledged it hears from who was told, what is durable it reads
//! from the disk, and when a child lives it hears from the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_engine::{ArtifactKind, Job, JobKind, JobState};

use crate::clocks::now;
use crate::sights::{Sight, Tally};

/// Shared by all who see something.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    lease: Duration,
    log: Vec<String>,
    tally: Tally,
    broken: Option<String>,
    /// Jobs that a person was told the number of, in that order.
    acknowledged: Vec<u64>,
    /// Submissions that were refused, as they may be.
    turned_away: usize,
    keys: BTreeMap<String, u64>,
    children: Vec<Child>,
    /// Workers whose state folder was copied.
    copied: BTreeSet<String>,
    /// Workers, each with a machine that asks to be taken for it and was not answered.
    asking: BTreeSet<(String, String)>,
    /// The same of machines that were taken for it, with the time until which what trains for the
    /// worker elsewhere may go on: GUARANTEES.md allows that of a copy.
    placed: BTreeMap<(String, String), Duration>,
    /// By job: the last checkpoint whose commit was acknowledged.
    checkpoints: BTreeMap<u64, u64>,
    /// By job: the tokens that were acknowledged, each with when that was heard first.
    tokens: BTreeMap<u64, BTreeMap<u64, Duration>>,
    /// By job: digests of results whose commit was acknowledged, with their attempts.
    results: BTreeMap<u64, BTreeSet<u64>>,
    durable: BTreeMap<u64, Job>,
}

/// A process that trains.
struct Child {
    machine: String,
    worker: String,
    job: u64,
    token: u64,
    from_step: u64,
    /// Its machine stood still, and it has not trained since.
    still: bool,
    has_trained: bool,
    ended: bool,
}

/// One child, for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildId(usize);

/// Who trains what.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    pub machine: &'a str,
    pub worker: &'a str,
    pub job: u64,
    pub token: u64,
    pub from_step: u64,
}

impl Witness {
    /// Of workers that have leases of length `lease`.
    pub fn new(lease: Duration) -> Self {
        let seen = Seen {
            lease,
            ..Seen::default()
        };
        Self(Arc::new(Mutex::new(seen)))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the log.
    pub fn note(&self, who: &str, what: impl AsRef<str>) {
        self.seen().note(who, what.as_ref());
    }

    /// The rule that was broken first.
    pub fn broken(&self) -> Option<String> {
        self.seen().broken.clone()
    }

    /// Says that a rule is broken.
    pub fn accuse(&self, rule: String) {
        self.seen().accuse(rule);
    }

    pub fn log(&self) -> Vec<String> {
        self.seen().log.clone()
    }

    /// Counts what was met.
    pub fn saw(&self, sight: Sight) {
        self.seen().tally.saw(sight);
    }

    pub fn tally(&self) -> Tally {
        self.seen().tally.clone()
    }

    pub fn acknowledged(&self) -> Vec<u64> {
        self.seen().acknowledged.clone()
    }

    /// Submissions of which a person knows what came of them.
    pub fn answered(&self) -> usize {
        let seen = self.seen();
        seen.acknowledged.len() + seen.turned_away
    }

    /// A submission was refused, as it may be.
    pub fn turned_away(&self) {
        let mut seen = self.seen();
        seen.tally.saw(Sight::TurnedAway);
        seen.turned_away += 1;
    }

    /// A person was told that the submission by `key` is `job`.
    pub fn submitted(&self, key: &str, job: u64) {
        let mut seen = self.seen();
        seen.note("person", &format!("is told that {key} is job {job}"));
        match seen.keys.insert(key.to_owned(), job) {
            Some(other) if other != job => {
                seen.accuse(format!("one key, {key}, gave the jobs {other} and {job}"));
            }
            Some(_) => seen.tally.saw(Sight::KeyRepeated),
            None => seen.acknowledged.push(job),
        }
    }

    /// The state folder of `worker` is copied.
    pub fn copied(&self, worker: &str) {
        self.seen().copied.insert(worker.to_owned());
    }

    /// `machine` asks to be taken for `worker`.
    pub fn asks_for(&self, worker: &str, machine: &str) {
        let asking = (worker.to_owned(), machine.to_owned());
        self.seen().asking.insert(asking);
    }

    /// `machine` was refused, or is taken for `worker`, or may be.
    pub fn may_be(&self, worker: &str, machine: &str, refused: bool) {
        let mut seen = self.seen();
        let place = (worker.to_owned(), machine.to_owned());
        seen.asking.remove(&place);
        if !refused {
            let until = now() + seen.lease;
            seen.placed.insert(place, until);
        }
    }

    pub fn begins(&self, training: Training<'_>) -> ChildId {
        let Training {
            machine,
            worker,
            job,
            token,
            from_step,
        } = training;
        let mut seen = self.seen();
        seen.note(
            machine,
            &format!("its child trains job {job} under {token} after step {from_step}"),
        );
        seen.tally.saw(match from_step {
            0 => Sight::TrainsAnew,
            _ => Sight::TrainsOn,
        });
        seen.children.push(Child {
            machine: machine.to_owned(),
            worker: worker.to_owned(),
            job,
            token,
            from_step,
            still: false,
            has_trained: false,
            ended: false,
        });
        ChildId(seen.children.len() - 1)
    }

    /// A child has done a step. Until then it harms nobody: one whose assignment came late ends
    /// with its lease before it begins.
    pub fn trains(&self, child: ChildId) {
        let mut seen = self.seen();
        let Some(own) = seen.children.get_mut(child.0) else {
            return;
        };
        own.still = false;
        let is_first = !std::mem::replace(&mut own.has_trained, true);
        if let Some(fault) = seen.beside(child) {
            seen.accuse(fault);
        }
        if is_first && let Some(fault) = seen.behind(child) {
            seen.accuse(fault);
        }
    }

    /// What runs on `machine` stands still: it trains nothing until it goes on.
    pub fn stands_still(&self, machine: &str) {
        let mut seen = self.seen();
        let children = seen.children.iter_mut();
        let own = children.filter(|child| child.machine == machine);
        own.for_each(|child| child.still = true);
        seen.note(machine, "stands still");
    }

    pub fn ends(&self, child: ChildId, why: Sight) {
        let mut seen = self.seen();
        let Some(child) = seen.children.get_mut(child.0) else {
            return;
        };
        if std::mem::replace(&mut child.ended, true) {
            return;
        }
        let (machine, job) = (child.machine.clone(), child.job);
        seen.tally.saw(why);
        seen.note(&machine, &format!("its child of job {job} ends: {why}"));
    }

    /// What ran on `machine` is gone.
    pub fn machine_died(&self, machine: &str) {
        let mut seen = self.seen();
        for child in &mut seen.children {
            child.ended |= child.machine == machine;
        }
        seen.note(machine, "dies");
    }

    /// A request in the name of `token` that was sent at `sent` was acknowledged.
    pub fn acknowledges(&self, job: u64, token: u64, sent: Duration) {
        let mut seen = self.seen();
        let tokens = seen.tokens.entry(job).or_default();
        tokens.entry(token).or_insert_with(now);
        let newer = tokens
            .range(token + 1..)
            .find(|(_, heard)| **heard < sent)
            .map(|(newer, _)| *newer);
        if let Some(newer) = newer {
            seen.accuse(format!(
                "job {job} has two current tokens: {token} was taken after {newer}"
            ));
        }
    }

    pub fn committed(&self, job: u64, token: u64, (kind, step): (ArtifactKind, u64)) {
        let mut seen = self.seen();
        seen.note(
            "coordinator",
            &format!("has taken the {kind} of step {step} of job {job}"),
        );
        seen.tally.saw(match kind {
            ArtifactKind::Checkpoint => Sight::CheckpointTaken,
            ArtifactKind::Adapter => Sight::ResultTaken,
        });
        match kind {
            ArtifactKind::Checkpoint => {
                let last = seen.checkpoints.entry(job).or_default();
                *last = step.max(*last);
            }
            ArtifactKind::Adapter => {
                seen.results.entry(job).or_default().insert(token);
            }
        }
    }

    /// Compares what is durable with what was acknowledged, and with what was durable before.
    pub fn look(&self, jobs: Vec<Job>) {
        let mut seen = self.seen();
        let jobs: BTreeMap<u64, Job> = jobs.into_iter().map(|job| (job.id.0, job)).collect();
        let lost = seen.acknowledged.iter().find(|id| !jobs.contains_key(id));
        if let Some(lost) = lost.copied() {
            seen.accuse(format!("job {lost} was acknowledged and is not there"));
        }
        let faults: Vec<String> = jobs
            .values()
            .filter_map(|job| seen.fault_of(job).or_else(|| too_early(job, &jobs)))
            .collect();
        for job in jobs.values() {
            seen.count(job);
        }
        faults.into_iter().for_each(|fault| seen.accuse(fault));
        seen.durable = jobs;
    }
}

impl Seen {
    fn note(&mut self, who: &str, what: &str) {
        let at = now().as_secs_f64();
        self.log.push(format!("{at:9.3} {who:<12} {what}"));
    }

    fn accuse(&mut self, rule: String) {
        self.note("RULE", &rule);
        self.broken.get_or_insert(rule);
    }

    /// Whether a child may train beside another: another machine than its own has a copy of its
    /// worker's state folder, and is or may be taken for that worker.
    fn is_displaced(&self, child: &Child) -> bool {
        let is_other = |(of, by): &(String, String)| *of == child.worker && *by != child.machine;
        let mut placed = self.placed.iter();
        self.copied.contains(&child.worker)
            && (self.asking.iter().any(is_other)
                || placed.any(|(place, until)| is_other(place) && now() < *until))
    }

    /// Who trains the same job as a child that trains.
    fn beside(&self, child: ChildId) -> Option<String> {
        let own = self.children.get(child.0)?;
        let (job, token, machine) = (own.job, own.token, &own.machine);
        if own.ended {
            return Some(format!("a child of job {job} trains after its end"));
        }
        if self.is_displaced(own) {
            return None;
        }
        let mut others = self.children.iter().enumerate();
        let (_, other) = others.find(|(i, other)| {
            let is_quiet = other.ended || other.still || self.is_displaced(other);
            *i != child.0 && other.job == job && !is_quiet
        })?;
        Some(format!(
            "two children train job {job}: on {} under {}, and on {machine} under {token}",
            other.machine, other.token
        ))
    }

    /// What a child that begins to train does again, though it was acknowledged.
    fn behind(&self, child: ChildId) -> Option<String> {
        let Child { job, from_step, .. } = self.children.get(child.0)?;
        let saved = self
            .checkpoints
            .get(job)
            .filter(|saved| from_step < *saved)?;
        Some(format!(
            "job {job} goes on after step {from_step}, though the checkpoint of step {saved} was acknowledged"
        ))
    }

    /// Counts the state of `job` where it is another than before.
    fn count(&mut self, job: &Job) {
        let before = self.durable.get(&job.id.0);
        if before.is_some_and(|before| before.state == job.state) {
            return;
        }
        self.tally.saw(match job.state {
            JobState::Paused { .. } => Sight::JobPaused,
            JobState::Succeeded { .. } => Sight::JobSucceeded,
            JobState::Failed { .. } => Sight::JobFailed,
            JobState::Cancelled { .. } => Sight::JobCancelled,
            JobState::Queued { .. } | JobState::Running { .. } => return,
        });
    }

    /// What is wrong with a job as it is durable.
    fn fault_of(&self, job: &Job) -> Option<String> {
        let id = job.id;
        if let Some(before) = self.durable.get(&id.0) {
            if before.state.is_final() && before.state != job.state {
                return Some(format!("job {id} had ended, and has another state now"));
            }
            if job.attempts.len() < before.attempts.len() {
                return Some(format!("an attempt of job {id} is gone"));
            }
        }
        let step = job.checkpoint().map_or(0, |checkpoint| checkpoint.step);
        let saved = self.checkpoints.get(&id.0).copied().unwrap_or_default();
        if step < saved {
            return Some(format!(
                "job {id} has the checkpoint of step {step}, though that of step {saved} was acknowledged"
            ));
        }
        let adapters = job
            .artifacts
            .iter()
            .filter(|a| a.kind == ArtifactKind::Adapter);
        let adapters = adapters.count();
        let ended_well = matches!(job.state, JobState::Succeeded { .. });
        let is_acknowledged = self.results.contains_key(&id.0);
        match adapters {
            0 if is_acknowledged => Some(format!("the acknowledged result of job {id} is gone")),
            // Not by the engine's own word.
            0 if ended_well && job.spec.kind == JobKind::Train => {
                Some(format!("job {id} succeeded without a result"))
            }
            0 | 1 => None,
            many => Some(format!("job {id} has {many} results")),
        }
    }
}

/// What is wrong with a job that was started before one that it comes after had succeeded.
fn too_early(job: &Job, jobs: &BTreeMap<u64, Job>) -> Option<String> {
    if job.attempts.is_empty() {
        return None;
    }
    let has_succeeded = |id: &u64| {
        let other = jobs.get(id);
        other.is_some_and(|other| matches!(other.state, JobState::Succeeded { .. }))
    };
    let mut after = job.spec.after.jobs.iter().map(|id| id.0);
    let early = after.find(|id| !has_succeeded(id))?;
    Some(format!(
        "job {} began before job {early} had succeeded",
        job.id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(machine: &str, token: u64, from_step: u64) -> Training<'_> {
        Training {
            machine,
            worker: machine,
            job: 1,
            token,
            from_step,
        }
    }

    #[test]
    fn two_children_of_one_job_are_seen_and_one_after_the_other_is_allowed() {
        let witness = Witness::default();
        let first = witness.begins(training("a", 1, 0));
        witness.ends(first, Sight::Done);
        let second = witness.begins(training("b", 2, 0));
        witness.trains(second);
        assert_eq!(witness.broken(), None);
        let third = witness.begins(training("c", 3, 0));
        assert_eq!(witness.broken(), None);
        witness.trains(third);
        let rule = witness.broken().expect("a broken rule");
        assert!(rule.starts_with("two children train job 1"), "{rule}");
    }

    #[test]
    fn a_copy_displaces_its_original_for_a_lease_and_no_other_worker() {
        let train = |copied: &str| {
            let witness = Witness::new(Duration::from_secs(1));
            witness.copied(copied);
            witness.begins(training("a", 1, 0));
            witness.asks_for(copied, "copy");
            witness.may_be(copied, "copy", false);
            let second = witness.begins(training("b", 2, 0));
            witness.trains(second);
            witness.broken()
        };
        assert_eq!(train("a"), None);
        assert!(train("c").is_some());
    }

    #[test]
    fn a_child_that_stood_still_is_seen_only_once_it_trains_beside_another() {
        let witness = Witness::default();
        let first = witness.begins(training("a", 1, 0));
        witness.stands_still("a");
        let second = witness.begins(training("b", 2, 0));
        witness.trains(second);
        assert_eq!(witness.broken(), None);
        witness.trains(first);
        let rule = witness.broken().expect("a broken rule");
        assert!(rule.starts_with("two children train job 1"), "{rule}");
    }

    #[test]
    fn a_step_that_goes_back_and_a_token_that_comes_back_are_seen() {
        let witness = Witness::default();
        witness.committed(1, 1, (ArtifactKind::Checkpoint, 20));
        let first = witness.begins(training("a", 2, 20));
        witness.trains(first);
        witness.ends(first, Sight::ToStop);
        assert_eq!(witness.broken(), None);
        let second = witness.begins(training("a", 3, 10));
        witness.trains(second);
        assert!(witness.broken().is_some());

        let witness = Witness::default();
        let second = Duration::from_secs(1);
        witness.acknowledges(1, 2, Duration::ZERO);
        // It was on its way before the other was current.
        witness.acknowledges(1, 1, Duration::ZERO);
        assert_eq!(witness.broken(), None);
        witness.acknowledges(1, 1, second);
        assert!(witness.broken().is_some());
    }

    #[test]
    fn a_lost_job_and_a_key_of_two_jobs_are_seen() {
        let witness = Witness::default();
        witness.submitted("k", 1);
        witness.look(Vec::new());
        let rule = witness.broken().expect("a broken rule");
        assert_eq!(rule, "job 1 was acknowledged and is not there");
        let witness = Witness::default();
        witness.submitted("k", 1);
        witness.submitted("k", 1);
        assert_eq!(witness.broken(), None);
        witness.submitted("k", 2);
        assert!(witness.broken().is_some());
    }
}
