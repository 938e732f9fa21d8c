//! Classes of waiting jobs: jobs of the same needs are one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::worker::Needs;

/// Identifies a class for as long as it has jobs.
pub(super) type ClassId = u64;

#[derive(Debug, Default)]
pub(super) struct Classes {
    all: HashMap<ClassId, Class>,
    /// Classes by a fingerprint of their needs.
    alike: HashMap<u64, Vec<ClassId>>,
    next: ClassId,
}

#[derive(Debug)]
struct Class {
    needs: Needs,
    jobs: usize,
}

impl Classes {
    /// One job more has these `needs`: its class, a new one where there is none.
    pub fn enter(&mut self, needs: &Needs) -> ClassId {
        let alike = self.alike.entry(fingerprint(needs)).or_default();
        for id in alike.iter() {
            if let Some(class) = self.all.get_mut(id)
                && class.needs == *needs
            {
                class.jobs += 1;
                return *id;
            }
        }
        let id = self.next;
        self.next += 1;
        alike.push(id);
        let class = Class {
            needs: needs.clone(),
            jobs: 1,
        };
        self.all.insert(id, class);
        id
    }

    /// The class has one job less, and goes with its last.
    pub fn leave(&mut self, id: ClassId) {
        let Some(class) = self.all.get_mut(&id) else {
            return;
        };
        class.jobs -= 1;
        if class.jobs > 0 {
            return;
        }
        let print = fingerprint(&class.needs);
        self.all.remove(&id);
        if let Some(alike) = self.alike.get_mut(&print) {
            alike.retain(|one| *one != id);
            if alike.is_empty() {
                self.alike.remove(&print);
            }
        }
    }

    pub fn needs(&self, id: ClassId) -> Option<&Needs> {
        self.all.get(&id).map(|class| &class.needs)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.alike.is_empty()
    }
}

/// Needs that are equal have the same one.
fn fingerprint(needs: &Needs) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Needs {
        device,
        memory,
        memory_fraction: _,
        advice: _,
        labels,
        flash_attention,
        workers,
        host_memory,
        model,
    } = needs;
    (device, memory, labels).hash(&mut hasher);
    (flash_attention, workers, host_memory, model).hash(&mut hasher);
    hasher.finish()
}
