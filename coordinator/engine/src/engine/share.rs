//! Fair share: what each user holds and has used, and who comes next by it.
//!
//! Among waiting jobs of one priority, that one is next whose owner has the fewest workers in use.
//! Of owners who have as many, the one comes first who used less; of those who used as much, the
//! one whose job was submitted first. Jobs of one owner keep the order of their submission.
//!
//! What an owner used are the worker-milliseconds of its attempts that have ended. Their weight
//! halves with every day, by UTC, from their end to the last end of all. All of it follows from the
//! jobs that there are, for ended ones from their briefs: a restart knows the same, and what is
//! deleted counts no more. Only events change it and never the passing of time, so that no deadline
//! comes of it.

use std::collections::BTreeMap;

use crate::attempt::Attempt;
use crate::ended::Used;
use crate::job::{Job, JobState};

/// How often what was used is halved before it has no weight.
const HALVINGS: u64 = 63;

/// What the jobs of one owner amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs that are queued or paused.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// Workers that these jobs hold.
    pub workers: u64,
}

/// Where an owner stands: who stands lower comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    workers: u64,
    used: u128,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    usage: Usage,
    /// Worker-milliseconds of attempts that have ended, by the day of their end.
    used: BTreeMap<u64, u64>,
}

/// Every owner's account.
#[derive(Debug, Default)]
pub(super) struct Shares(BTreeMap<String, Account>);

impl Shares {
    /// Counts `job` as it is.
    pub fn add(&mut self, job: &Job) {
        let account = self.0.entry(job.spec.owner.clone()).or_default();
        account.count(job, u64::saturating_add);
    }

    /// Counts `job` no more, which has not changed since it was added.
    pub fn take(&mut self, job: &Job) {
        let Some(account) = self.0.get_mut(&job.spec.owner) else {
            return;
        };
        account.count(job, u64::saturating_sub);
        if *account == Account::default() {
            self.0.remove(&job.spec.owner);
        }
    }

    /// Counts what an ended job has used, of which no more is known here.
    pub fn add_used(&mut self, used: Used) {
        let account = self.0.entry(used.owner).or_default();
        for (day, ms) in used.by_day {
            let used = account.used.entry(day).or_default();
            *used = used.saturating_add(ms);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn usage(&self, owner: &str) -> Usage {
        self.0.get(owner).map(|a| a.usage).unwrap_or_default()
    }

    /// The last day on which anybody's attempt ended.
    fn today(&self) -> u64 {
        let last = |account: &Account| account.used.last_key_value().map(|(day, _)| *day);
        self.0.values().filter_map(last).max().unwrap_or(0)
    }

    /// Where each owner stands.
    pub fn standings(&self) -> impl Fn(&str) -> Standing {
        let today = self.today();
        move |owner| {
            let account = self.0.get(owner);
            account
                .map(|account| account.standing(today))
                .unwrap_or_default()
        }
    }
}

impl Account {
    fn count(&mut self, job: &Job, change: fn(u64, u64) -> u64) {
        let usage = &mut self.usage;
        match job.state {
            JobState::Queued { .. } | JobState::Paused { .. } => {
                usage.waiting = change(usage.waiting, 1);
            }
            JobState::Running { token, .. } => {
                let workers = job.attempt(token).map_or(1, Attempt::size);
                usage.running = change(usage.running, 1);
                usage.workers = change(usage.workers, workers.into());
            }
            JobState::Succeeded { .. } | JobState::Failed { .. } | JobState::Cancelled { .. } => {}
        }
        for (day, ms) in job.used() {
            let used = self.used.entry(day).or_default();
            *used = change(*used, ms);
        }
        self.used.retain(|_, used| *used > 0);
    }

    fn standing(&self, today: u64) -> Standing {
        let weight = |(day, used): (&u64, &u64)| {
            let halvings = HALVINGS.checked_sub(today.saturating_sub(*day));
            halvings.map_or(0, |shift| u128::from(*used) << shift)
        };
        Standing {
            workers: self.usage.workers,
            used: self.used.iter().map(weight).fold(0, u128::saturating_add),
        }
    }
}
