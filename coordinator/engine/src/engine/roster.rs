//! The workers, and indexes of them: who is free, whose lease ends when, who was woken when. What
//! follows of it is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use super::by_time::ByTime;
use crate::ids::Millis;
use crate::worker::Worker;

/// Workers by their name. Every way to change one passes here, so that the indexes are always right
/// and nobody walks all workers to find a few.
#[derive(Debug, Default)]
pub(super) struct Roster {
    all: BTreeMap<String, Worker>,
    indexes: Indexes,
}

#[derive(Debug, Default)]
struct Indexes {
    free: BTreeSet<String>,
    /// When leases end that are watched.
    leases: ByTime<String>,
    /// When those were woken that have models: others have no head start.
    woken: ByTime<String>,
}

/// A worker that changes; the indexes follow once it is dropped.
pub(super) struct Changing<'a> {
    worker: &'a mut Worker,
    indexes: &'a mut Indexes,
}

impl Roster {
    pub fn get(&self, name: &str) -> Option<&Worker> {
        self.all.get(name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<Changing<'_>> {
        let worker = self.all.get_mut(name)?;
        let indexes = &mut self.indexes;
        Some(Changing { worker, indexes })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// Adds a worker, in the place of one of the same name.
    pub fn insert(&mut self, worker: Worker) {
        self.indexes.follow(&worker);
        self.all.insert(worker.name.clone(), worker);
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(worker) = self.all.remove(name) {
            self.indexes.forget(&worker.name);
        }
    }

    /// By their names.
    pub fn values(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.all.values()
    }

    /// Those that wait for work and may be given some, by their names.
    pub fn free(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.indexes
            .free
            .iter()
            .filter_map(|name| self.all.get(name))
    }

    pub fn change_all(&mut self, mut change: impl FnMut(&mut Worker)) {
        for worker in self.all.values_mut() {
            change(worker);
            self.indexes.follow(worker);
        }
    }

    /// Whether anybody's lease is to be watched.
    pub fn watches_leases(&self) -> bool {
        !self.indexes.leases.is_empty()
    }

    /// When the first of the leases ends that are watched.
    pub fn first_lease(&self) -> Option<Millis> {
        self.indexes.leases.first()
    }

    /// Names of those whose lease is watched and is over at `now`.
    pub fn overdue(&self, now: Millis) -> BTreeSet<String> {
        self.indexes.leases.due(now).cloned().collect()
    }

    /// When the first was woken that was not before `from`, of those that have models.
    pub fn first_woken(&self, from: Millis) -> Option<Millis> {
        self.indexes.woken.first_from(from)
    }
}

impl Indexes {
    fn follow(&mut self, worker: &Worker) {
        let name = &worker.name;
        if !worker.is_free() {
            self.free.remove(name);
        } else if !self.free.contains(name) {
            self.free.insert(name.clone());
        }
        let is_watched = worker.connected || worker.assigned.is_some();
        self.leases
            .set(name, is_watched.then_some(worker.lease_until));
        let has_models = !worker.platform.models.is_empty();
        self.woken.set(name, worker.woken_at.filter(|_| has_models));
    }

    fn forget(&mut self, name: &String) {
        self.free.remove(name);
        self.leases.set(name, None);
        self.woken.set(name, None);
    }
}

impl Deref for Changing<'_> {
    type Target = Worker;

    fn deref(&self) -> &Worker {
        self.worker
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Worker {
        self.worker
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.indexes.follow(self.worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Token;

    fn worker(name: &str, lease: u64) -> Worker {
        let holder = (name, name, None);
        Worker::absent(holder, Token::new(1, 0), Millis(0), Millis(lease))
    }

    fn free(roster: &Roster) -> Vec<&str> {
        roster.free().map(|worker| worker.name.as_str()).collect()
    }

    #[test]
    fn the_indexes_follow_every_change_of_a_worker() {
        let mut roster = Roster::default();
        roster.insert(worker("a", 30));
        roster.insert(worker("b", 20));
        assert_eq!(roster.first_lease(), Some(Millis(20)));
        assert_eq!(free(&roster), [""; 0]);
        {
            let mut worker = roster.get_mut("b").expect("it is there");
            (worker.connected, worker.waiting, worker.assigned) = (true, true, None);
            worker.lease_until = Millis(50);
        }
        assert_eq!(free(&roster), ["b"]);
        assert_eq!(roster.first_lease(), Some(Millis(30)));
        assert_eq!(Vec::from_iter(roster.overdue(Millis(30))), ["a"]);
        roster.change_all(|worker| (worker.assigned, worker.connected) = (None, false));
        assert_eq!(free(&roster), [""; 0]);
        assert!(!roster.watches_leases());
    }

    #[test]
    fn one_of_the_same_name_takes_the_place_and_nothing_is_left_of_who_is_removed() {
        let mut roster = Roster::default();
        roster.insert(worker("a", 30));
        roster.insert(worker("a", 40));
        assert_eq!(roster.first_lease(), Some(Millis(40)));
        {
            let mut worker = roster.get_mut("a").expect("it is there");
            worker.woken_at = Some(Millis(7));
        }
        assert_eq!(roster.first_woken(Millis(0)), None, "it has no models");
        {
            let mut worker = roster.get_mut("a").expect("it is there");
            worker.platform.models.insert("m".into());
        }
        assert_eq!(roster.first_woken(Millis(7)), Some(Millis(7)));
        assert_eq!(roster.first_woken(Millis(8)), None);
        roster.remove("a");
        assert!(!roster.contains("a") && !roster.watches_leases());
        assert_eq!(roster.first_woken(Millis(0)), None);
    }
}
