//! The training child: steps by the clock, checkpoints, and a result at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use qlora_engine::ArtifactKind;
use qlora_proto::Outcome;
use qlora_proto::lease::Lease;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::machine::{Machine, Saved};
use super::outbox::Outbox;
use super::stopping::{Stops, Urgency, over, told_to};
use crate::schedule::DOOMED;
use crate::sights::Sight;
use crate::witness::ChildId;

/// Time of one step.
const STEP: Duration = Duration::from_millis(300);
/// Time that a checkpoint takes to be written.
const SAVE: Duration = Duration::from_millis(700);
/// Steps from checkpoint to checkpoint.
const EVERY: u64 = 10;

/// A child that trains.
pub struct Child {
    pub machine: Arc<Machine>,
    pub step: u64,
    pub steps: u64,
    pub outbox: Arc<Outbox>,
    pub stops: Stops,
    pub leases: watch::Receiver<Option<Lease>>,
    pub saved: mpsc::UnboundedSender<Saved>,
}

impl Child {
    /// Trains until it is done, or stopped, or its lease is over, which ends it whatever its agent
    /// does.
    pub async fn train(mut self, id: ChildId) -> (Outcome, Sight) {
        let (mut leases, mut stops) = (self.leases.clone(), self.stops.clone());
        tokio::select! {
            biased;
            () = over(&mut leases) => (Outcome::Lost, Sight::LeaseOver),
            () = told_to(&mut stops, Urgency::AtOnce) => (Outcome::Lost, Sight::ToStopAtOnce),
            ended = self.steps(id) => ended,
        }
    }

    async fn steps(&mut self, id: ChildId) -> (Outcome, Sight) {
        let first = self.step;
        let mut stops = self.stops.clone();
        while self.step < self.steps {
            tokio::select! {
                biased;
                () = told_to(&mut stops, Urgency::Save) => {
                    if self.step > first {
                        sleep(SAVE).await;
                        self.save(ArtifactKind::Checkpoint);
                    }
                    return (Outcome::Stopped, Sight::ToStop);
                }
                () = sleep(STEP) => {}
            }
            self.step += 1;
            self.machine.witness.trains(id);
            self.outbox.add(self.step);
            if self.outbox.is_refused() {
                return (Outcome::Lost, Sight::ReportsRefused);
            }
            if self.step.is_multiple_of(EVERY) && self.step < self.steps {
                sleep(SAVE).await;
                self.save(ArtifactKind::Checkpoint);
            }
        }
        if self.steps == DOOMED {
            return (Outcome::Failed, Sight::Fails);
        }
        sleep(SAVE).await;
        if self.machine.claims.swap(false, Relaxed) {
            self.machine.witness.saw(Sight::SuccessClaimed);
        } else {
            self.save(ArtifactKind::Adapter);
        }
        (Outcome::Succeeded, Sight::Done)
    }

    /// What was saved is on disk before anybody hears of it.
    fn save(&self, kind: ArtifactKind) {
        let saved = Saved {
            kind,
            step: self.step,
        };
        if let Some(left) = &mut self.machine.kept().left {
            left.saved.push(saved);
        }
        let _ = self.saved.send(saved);
    }
}
