//! Workers that an operator has drained, and the queue where it is; and what of that was otherwise
//! before the last changes.

use std::collections::BTreeMap;

use crate::worker::Drain;

/// Drains by the worker's name, whether it is there or not. Every way to change one passes here.
#[derive(Debug, Default)]
pub(super) struct Drains {
    all: BTreeMap<String, Drain>,
    /// Changed since [`Self::settled`]; none where the worker was not drained.
    before: BTreeMap<String, Option<Drain>>,
}

impl Drains {
    pub fn get(&self, worker: &str) -> Option<&Drain> {
        self.all.get(worker)
    }

    pub fn all(&self) -> &BTreeMap<String, Drain> {
        &self.all
    }

    /// The worker is drained as `drain` says, or not at all.
    pub fn set(&mut self, worker: &str, drain: Option<Drain>) {
        let was = match drain {
            Some(drain) => self.all.insert(worker.to_owned(), drain),
            None => self.all.remove(worker),
        };
        self.before.entry(worker.to_owned()).or_insert(was);
    }

    /// Those that are durable, and no others.
    pub fn adopt(&mut self, all: BTreeMap<String, Drain>) {
        self.all = all;
        self.before.clear();
    }

    /// All drains as they are now are durable.
    pub fn settled(&mut self) {
        self.before.clear();
    }

    /// Drains are again what they were when they were [`Self::settled`].
    pub fn take_back(&mut self) {
        for (worker, was) in std::mem::take(&mut self.before) {
            match was {
                Some(drain) => drop(self.all.insert(worker, drain)),
                None => drop(self.all.remove(&worker)),
            }
        }
    }
}
