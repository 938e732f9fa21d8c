//! How everybody else talks to the driver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use qlora_engine::{Engine, Event, JobId, Limits, Response, SessionId};
use qlora_store::{By, LogRecord, MetricRecord, Write};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::waiter::Waiter;
use super::watchers::{JobWatch, Watchers};
use crate::error::CallError;

/// Entries of the journal that a slow reader may lag behind.
pub(super) const BROADCAST: usize = 4096;

type Read = Box<dyn FnOnce(&Engine) + Send>;

pub(super) enum Command {
    Event {
        event: Event,
        records: Records,
        by: Option<By>,
        reply: oneshot::Sender<Result<Response, CallError>>,
    },
    Forget {
        event: Event,
    },
    Read(Read),
}

/// What a worker reports beside the progress of its job.
#[derive(Debug, Default)]
pub struct Records {
    pub points: Vec<MetricRecord>,
    pub lines: Vec<LogRecord>,
}

impl Records {
    /// What is written for them; nothing where there are none.
    pub(super) fn writes(self, job: JobId) -> impl Iterator<Item = Write> {
        let Self { points, lines } = self;
        let points = (!points.is_empty()).then_some(Write::Metrics { job, points });
        let lines = (!lines.is_empty()).then_some(Write::Logs { job, lines });
        points.into_iter().chain(lines)
    }
}

/// Talks to the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub watchers: Arc<Watchers>,
    pub events: broadcast::Sender<()>,
    /// In one order, so that those who are woken together hear of it in the same order each time.
    pub waiters: Mutex<BTreeMap<SessionId, Arc<Waiter>>>,
    /// Jobs that are set aside because they cannot be read, and why.
    pub unreadable: Mutex<BTreeMap<JobId, String>>,
    pub coordinator_id: String,
    pub limits: Limits,
}

impl Handle {
    /// Gives an event to the engine and waits until its effects are durable.
    pub async fn event(&self, event: Event) -> Result<Response, CallError> {
        self.send(event, Records::default(), None).await
    }

    /// As [`Self::event`], asked for `by` somebody.
    pub async fn event_by(&self, event: Event, by: Option<By>) -> Result<Response, CallError> {
        self.send(event, Records::default(), by).await
    }

    /// As [`Self::event`], of a report; `records` are stored with it, as those of the job of its
    /// attempt, if the engine takes it for new.
    pub async fn event_with(&self, event: Event, records: Records) -> Result<Response, CallError> {
        self.send(event, records, None).await
    }

    async fn send(
        &self,
        event: Event,
        records: Records,
        by: Option<By>,
    ) -> Result<Response, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Event {
            event,
            records,
            by,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| CallError::Stopping)?;
        match answer.await.map_err(|_| CallError::Stopping)?? {
            Response::Refused(refusal) => Err(refusal.into()),
            response => Ok(response),
        }
    }

    /// Tells the engine something for which nobody waits.
    pub fn tell(&self, event: Event) {
        let _ = self.commands.try_send(Command::Forget { event });
    }

    /// Looks at the engine's state.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let look: Read = Box::new(move |engine| drop(reply.send(look(engine))));
        self.commands
            .send(Command::Read(look))
            .await
            .map_err(|_| CallError::Stopping)?;
        answer.await.map_err(|_| CallError::Stopping)
    }

    /// How long the engine waits and how much it takes; they never change.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Which coordinator this is, for as long as its database lasts.
    pub fn coordinator_id(&self) -> &str {
        &self.shared.coordinator_id
    }

    /// Why `job` is set aside, where it is.
    pub fn unreadable(&self, job: JobId) -> Option<String> {
        self.shared.unreadable().get(&job).cloned()
    }

    /// Whether any job is set aside.
    pub fn has_unreadable(&self) -> bool {
        !self.shared.unreadable().is_empty()
    }

    /// `job` after each of its changes.
    pub fn watch(&self, job: JobId) -> JobWatch {
        self.shared.watchers.watch(job)
    }

    /// Tells that the journal has new entries.
    pub fn watch_events(&self) -> broadcast::Receiver<()> {
        self.shared.events.subscribe()
    }

    /// Somebody else has made an entry of the journal durable.
    pub fn has_recorded(&self) {
        let _ = self.shared.events.send(());
    }

    /// Is notified when `session` should synchronize; none where nobody has that session.
    pub fn waiter(&self, session: SessionId) -> Option<Arc<Waiter>> {
        self.shared.waiters().get(&session).cloned()
    }
}

impl Shared {
    pub fn waiters(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn unreadable(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, String>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
