//! Sees everything that happens in a simulation, and says which rule it breaks.
//!
//! It believes nobody: what was acknowledged it hears from who was told, what is durable it reads
//! from the disk, and when a child lives it hears from the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_engine::{ArtifactKind, Job, JobState};

use crate::clocks::now;

/// Shared by all who see something.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    log: Vec<String>,
    broken: Option<String>,
    /// Jobs that a person was told the number of, in that order.
    acknowledged: Vec<u64>,
    keys: BTreeMap<String, u64>,
    children: Vec<Child>,
    /// Workers whose state folder was copied: GUARANTEES.md allows two of them for a moment.
    copied: BTreeSet<String>,
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

    pub fn acknowledged(&self) -> Vec<u64> {
        self.seen().acknowledged.clone()
    }

    /// A person was told that the submission by `key` is `job`.
    pub fn submitted(&self, key: &str, job: u64) {
        let mut seen = self.seen();
        seen.note("person", &format!("is told that {key} is job {job}"));
        match seen.keys.insert(key.to_owned(), job) {
            Some(other) if other != job => {
                seen.accuse(format!("one key, {key}, gave the jobs {other} and {job}"));
            }
            Some(_) => {}
            None => seen.acknowledged.push(job),
        }
    }

    /// The state folder of `worker` is copied.
    pub fn copied(&self, worker: &str) {
        self.seen().copied.insert(worker.to_owned());
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
        let other = seen.children.iter().find(|child| {
            let is_copy = child.worker == worker && seen.copied.contains(worker);
            !child.ended && child.job == job && !is_copy
        });
        if let Some(other) = other {
            let fault = format!(
                "two children train job {job}: on {} under {}, and on {machine} under {token}",
                other.machine, other.token
            );
            seen.accuse(fault);
        }
        let saved = seen.checkpoints.get(&job).copied().unwrap_or_default();
        if from_step < saved {
            seen.accuse(format!(
                "job {job} goes on after step {from_step}, though the checkpoint of step {saved} was acknowledged"
            ));
        }
        seen.children.push(Child {
            machine: machine.to_owned(),
            worker: worker.to_owned(),
            job,
            token,
            ended: false,
        });
        ChildId(seen.children.len() - 1)
    }

    pub fn ends(&self, child: ChildId, why: &str) {
        let mut seen = self.seen();
        let Some(child) = seen.children.get_mut(child.0) else {
            return;
        };
        if std::mem::replace(&mut child.ended, true) {
            return;
        }
        let (machine, job) = (child.machine.clone(), child.job);
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
        let faults: Vec<String> = jobs.values().filter_map(|job| seen.fault_of(job)).collect();
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
            0 if ended_well && job.missing_result().is_some() => {
                Some(format!("job {id} succeeded without a result"))
            }
            0 | 1 => None,
            many => Some(format!("job {id} has {many} results")),
        }
    }
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
        witness.ends(first, "done");
        witness.begins(training("b", 2, 0));
        assert_eq!(witness.broken(), None);
        witness.begins(training("c", 3, 0));
        let rule = witness.broken().expect("a broken rule");
        assert!(rule.starts_with("two children train job 1"), "{rule}");
    }

    #[test]
    fn a_step_that_goes_back_and_a_token_that_comes_back_are_seen() {
        let witness = Witness::default();
        witness.committed(1, 1, (ArtifactKind::Checkpoint, 20));
        witness.begins(training("a", 2, 20));
        assert_eq!(witness.broken(), None);
        witness.begins(training("a", 2, 10));
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
