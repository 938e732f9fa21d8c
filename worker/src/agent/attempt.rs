//! One attempt, as the session sees it: started or taken up again, stopped, left, waited for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qlora_client::Client;
use qlora_proto::lease::Lease;
use qlora_proto::{Assignment, HeldAttempt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::attempt_options::AttemptOptions;
use super::coordinator_id::CoordinatorId;
use super::current::Current;
use super::delivery::{Delivery, Ending};
use super::handover::{self, Handover, Whose};
use super::outbox::Outbox;
use super::stopping::{Stopping, Urgency};
use super::work::Work;

/// A running attempt, seen from the session.
pub struct Attempt {
    pub whose: Whose,
    stop: watch::Sender<Option<Stopping>>,
    /// The training process has ended, and what it left is on disk.
    over: watch::Receiver<bool>,
    outbox: Arc<Outbox>,
    pub folder: PathBuf,
    task: JoinHandle<Ending>,
}

/// How an attempt reaches its coordinator, and how long it may go on without.
pub struct Contact {
    pub coordinator: CoordinatorId,
    pub client: Client,
    pub session: Current,
    pub leases: watch::Receiver<Option<Lease>>,
}

/// The folder of an attempt. Coordinators count their jobs alike; workers of one machine share the
/// state folder, and may share an attempt.
fn folder_name(whose: &Whose, rank: u32) -> String {
    let Whose {
        coordinator,
        job,
        token,
        ..
    } = whose;
    match rank {
        0 => format!("{coordinator}-{job}-{token}"),
        rank => format!("{coordinator}-{job}-{token}-{rank}"),
    }
}

impl Attempt {
    /// Starts what `assignment` says, as the worker `name` with its state in `state`.
    pub fn start(
        contact: Contact,
        (name, state): (&str, &Path),
        options: AttemptOptions,
        assignment: Assignment,
    ) -> Self {
        let (stop, stopping) = watch::channel(None);
        let (ended, over) = watch::channel(false);
        let (job, token) = (assignment.job, assignment.token);
        let span = tracing::info_span!("attempt", job, number = assignment.attempt);
        qlora_telemetry::set_parent_text(&span, &assignment.traceparent);
        let whose = Whose {
            coordinator: contact.coordinator,
            worker: name.into(),
            job,
            token,
        };
        let folder = state
            .join("jobs")
            .join(folder_name(&whose, assignment.rank));
        let outbox: Arc<Outbox> = Arc::default();
        let work = Work {
            whose: whose.clone(),
            folder: folder.clone(),
            tokens: state.join("tokens"),
            client: contact.client,
            session: contact.session,
            leases: contact.leases,
            assignment,
            options,
            stopping,
            ended,
            saved: Vec::new(),
            outbox: outbox.clone(),
            instruments: Default::default(),
            helpers: Default::default(),
        };
        Self {
            whose,
            stop,
            over,
            outbox,
            folder,
            task: tokio::spawn(work.run().instrument(span)),
        }
    }

    /// Delivers what an attempt left when its worker ended, or when another coordinator answered.
    pub fn resume(contact: Contact, left: Handover) -> Self {
        let Handover {
            whose,
            ended,
            saved,
            reports,
            folder,
        } = left;
        let Contact {
            client, session, ..
        } = contact;
        let (outbox, (stop, stopping)) = (Arc::new(reports), watch::channel(None));
        let delivery = Delivery {
            client,
            session,
            token: whose.token,
            folder: folder.clone(),
            outbox: outbox.clone(),
            stopping,
        };
        let over = watch::channel(true).1;
        Self {
            whose,
            stop,
            over,
            outbox,
            folder,
            task: tokio::spawn(delivery.complete(ended, saved)),
        }
    }

    /// As a registration names it.
    pub fn held(&self) -> HeldAttempt {
        self.whose.held()
    }

    /// Waits until the worker may end without losing anything: all that is left to do is to
    /// deliver.
    pub fn is_over(&self) -> impl Future<Output = ()> + use<> {
        let mut over = self.over.clone();
        async move {
            let _ = over.wait_for(|over| *over).await.map(drop);
        }
    }

    /// Keeps the reports that are not delivered, for when they can be.
    pub fn keep_reports(&self) {
        if let Err(e) = handover::keep_reports(&self.outbox, &self.folder) {
            tracing::warn!("reports cannot be kept in {}: {e}", self.folder.display());
        }
    }

    pub fn stop(&self, stopping: Stopping) {
        self.stop.send_replace(Some(stopping));
    }

    /// Whether it has been asked to stop as urgently as `urgency`.
    pub fn is_stopping(&self, urgency: Urgency) -> bool {
        self.stop
            .borrow()
            .as_ref()
            .is_some_and(|stopping| stopping.urgency >= urgency)
    }

    /// Ends its process and everything that speaks for it; what it leaves for its coordinator,
    /// where that is something.
    pub async fn leave(mut self, reason: String) -> Option<Handover> {
        self.stop(Stopping {
            reason,
            urgency: Urgency::Leave,
            resumes: true,
        });
        if self.ended().await != Ending::Kept {
            return None;
        }
        if self.folder.exists() {
            self.keep_reports();
        }
        handover::find(&self.folder)
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Ending {
        (&mut self.task).await.unwrap_or(Ending::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_coordinators_that_count_alike_have_folders_of_their_own() {
        let whose = |digit: &str| Whose {
            coordinator: digit.repeat(32).try_into().expect("an id"),
            worker: "a".into(),
            job: 1,
            token: 7,
        };
        let names = [
            folder_name(&whose("1"), 0),
            folder_name(&whose("2"), 0),
            folder_name(&whose("2"), 1),
        ];
        assert_eq!(names, ["11111111-1-7", "22222222-1-7", "22222222-1-7-1"]);
    }
}
