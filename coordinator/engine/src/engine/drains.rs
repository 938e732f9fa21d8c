//! Workers that an operator has drained, and the queue where it is; and what of that was otherwise
//! before the last changes.

use std::collections::BTreeMap;

use crate::worker::Drain;

/// The name under which a drain of the queue is stored; no worker has it.
pub(super) const QUEUE: &str = "";

/// Every way to change a drain passes here. A change of the queue's has the name under which it is
/// stored, [`QUEUE`]; who reads drains does not meet that name.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// By the worker's name, whether it is there or not.
    workers: BTreeMap<String, Drain>,
    queue: Option<Drain>,
    /// Changed since [`Self::settled`]; none where it was not drained.
    before: BTreeMap<String, Option<Drain>>,
}

impl Drains {
    pub fn workers(&self) -> &BTreeMap<String, Drain> {
        &self.workers
    }

    pub fn queue(&self) -> Option<&Drain> {
        self.queue.as_ref()
    }

    /// The worker `name`, or the queue by its name, is drained as `drain` says, or not at all.
    pub fn set(&mut self, name: &str, drain: Option<Drain>) {
        let was = self.put(name, drain);
        self.before.entry(name.to_owned()).or_insert(was);
    }

    /// As [`Self::set`], and gives what was before.
    fn put(&mut self, name: &str, drain: Option<Drain>) -> Option<Drain> {
        match drain {
            drain if name == QUEUE => std::mem::replace(&mut self.queue, drain),
            Some(drain) => self.workers.insert(name.to_owned(), drain),
            None => self.workers.remove(name),
        }
    }

    /// Those that are durable, and no others.
    pub fn adopt(&mut self, mut all: BTreeMap<String, Drain>) {
        self.queue = all.remove(QUEUE);
        self.workers = all;
        self.before.clear();
    }

    /// All drains as they are now are durable.
    pub fn settled(&mut self) {
        self.before.clear();
    }

    /// Drains are again what they were when they were [`Self::settled`].
    pub fn take_back(&mut self) {
        for (name, was) in std::mem::take(&mut self.before) {
            self.put(&name, was);
        }
    }
}
