//! What a worker still has to hand in, for each coordinator that it has worked for.
//!
//! Registering tells the worker which coordinator it speaks to. It hands in what belongs to that
//! one. The rest stays on disk until its own coordinator answers again.

use qlora_proto::HeldAttempt;

use super::coordinator_id::CoordinatorId;
use super::handover::{self, Handover};

/// One attempt of each coordinator at the most.
#[derive(Debug, Default)]
pub struct Kept(Vec<Handover>);

impl Kept {
    pub fn new(left: Vec<Handover>) -> Self {
        let mut kept = Self::default();
        left.into_iter().for_each(|left| kept.add(left));
        kept
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what an attempt left. Of one coordinator a worker holds the attempt that it was given
    /// last; what it left of an earlier one would be refused, and goes.
    pub fn add(&mut self, left: Handover) {
        let same = self
            .0
            .iter()
            .position(|other| other.whose.coordinator == left.whose.coordinator);
        let older = match same {
            Some(at) if self.0[at].whose.token > left.whose.token => Some(left),
            Some(at) => Some(std::mem::replace(&mut self.0[at], left)),
            None => {
                self.0.push(left);
                None
            }
        };
        if let Some(older) = older {
            handover::forget(&older.folder);
        }
    }

    /// What is to be handed in to `coordinator`.
    pub fn take(&mut self, coordinator: &CoordinatorId) -> Option<Handover> {
        let at = self
            .0
            .iter()
            .position(|left| left.whose.coordinator == *coordinator)?;
        Some(self.0.swap_remove(at))
    }

    /// The attempts, as a registration names them.
    pub fn held(&self) -> impl Iterator<Item = HeldAttempt> {
        self.0.iter().map(|left| left.whose.held())
    }

    /// Says what is not handed in, since `coordinator` answers and it is another one's.
    pub fn tell_others(&self, coordinator: &CoordinatorId) {
        for left in self
            .0
            .iter()
            .filter(|left| left.whose.coordinator != *coordinator)
        {
            let (whose, folder) = (&left.whose, left.folder.display());
            tracing::warn!(
                "coordinator {coordinator} answers; {folder}, of job {} of coordinator {}, is kept for that one",
                whose.job,
                whose.coordinator
            );
        }
    }
}
