//! The one task that owns the engine.
//!
//! In this order and no other: handle, persist, send, acknowledge. Events that wait together are stored in one
//! transaction, so that one fsync serves many. Where storing fails, nothing is acknowledged, and the engine is
//! built again from what is durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qlora_engine::{Effect, Engine, Event, Job, JobId, Limits, Millis, Response, SessionId};
use qlora_store::{JobStore, JournalEntry, Write};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::CallError;

/// Events that are stored in one transaction at the most.
const BATCH: usize = 256;
/// Changes that a slow watcher may lag behind.
const BROADCAST: usize = 4096;

/// The time now.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}

type Read = Box<dyn FnOnce(&Engine) + Send>;

enum Command {
    Event { event: Event, attached: Vec<Write>, reply: oneshot::Sender<Result<Response, CallError>> },
    Forget { event: Event },
    Read(Read),
}

/// Talks to the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    jobs: broadcast::Sender<Arc<Job>>,
    events: broadcast::Sender<JournalEntry>,
    waiters: Mutex<HashMap<SessionId, Arc<Notify>>>,
}

impl Handle {
    /// Gives an event to the engine and waits until its effects are durable.
    pub async fn event(&self, event: Event) -> Result<Response, CallError> {
        self.event_with(event, Vec::new()).await
    }

    /// As [`Self::event`]; `attached` is stored with it if the engine takes it for new.
    pub async fn event_with(&self, event: Event, attached: Vec<Write>) -> Result<Response, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Event { event, attached, reply };
        self.commands.send(command).await.map_err(|_| CallError::Stopping)?;
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
        self.commands.send(Command::Read(look)).await.map_err(|_| CallError::Stopping)?;
        answer.await.map_err(|_| CallError::Stopping)
    }

    /// Every job after each of its changes.
    pub fn watch_jobs(&self) -> broadcast::Receiver<Arc<Job>> {
        self.shared.jobs.subscribe()
    }

    /// Every journal entry as it becomes durable.
    pub fn watch_events(&self) -> broadcast::Receiver<JournalEntry> {
        self.shared.events.subscribe()
    }

    /// Is notified when `session` should synchronise.
    pub fn waiter(&self, session: SessionId) -> Arc<Notify> {
        self.shared.waiters().entry(session).or_default().clone()
    }
}

impl Shared {
    fn waiters(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Notify>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the engine and the store.
pub struct Driver<S> {
    engine: Engine,
    store: Arc<S>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
}

/// What one batch of commands leads to.
#[derive(Default)]
struct Batch {
    dirty: BTreeSet<JobId>,
    writes: Vec<Write>,
    wakes: Vec<SessionId>,
    replies: Vec<(oneshot::Sender<Result<Response, CallError>>, Response)>,
}

impl<S: JobStore> Driver<S> {
    /// Reads the state and starts the task; it ends when every [`Handle`] is gone.
    pub async fn start(store: Arc<S>, limits: Limits) -> Result<Handle, CallError> {
        let engine = Engine::new(limits, store.jobs().await?, now());
        let (sender, commands) = mpsc::channel(4 * BATCH);
        let shared = Arc::new(Shared {
            jobs: broadcast::channel(BROADCAST).0,
            events: broadcast::channel(BROADCAST).0,
            waiters: Mutex::default(),
        });
        let driver = Self { engine, store, commands, shared: shared.clone() };
        tokio::spawn(driver.run());
        Ok(Handle { commands: sender, shared })
    }

    async fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                received = self.commands.recv_many(&mut waiting, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {}
            }
            let batch = self.handle(waiting.drain(..));
            self.settle(batch).await;
        }
    }

    fn deadline(&self) -> Instant {
        let now = now();
        let next = self.engine.next_deadline(now).map_or(60_000, |t| t.0.saturating_sub(now.0).clamp(1, 60_000));
        Instant::now() + Duration::from_millis(next)
    }

    fn handle(&mut self, commands: impl Iterator<Item = Command>) -> Batch {
        let mut batch = Batch::default();
        for command in commands {
            match command {
                Command::Read(look) => look(&self.engine),
                Command::Forget { event } => drop(self.one(event, Vec::new(), &mut batch)),
                Command::Event { event, attached, reply } => {
                    let response = self.one(event, attached, &mut batch);
                    batch.replies.push((reply, response));
                }
            }
        }
        self.one(Event::Tick, Vec::new(), &mut batch);
        batch
            .writes
            .extend(batch.dirty.iter().filter_map(|&id| Some(Write::SaveJob(Box::new(self.engine.job(id)?.clone())))));
        batch
    }

    fn one(&mut self, event: Event, attached: Vec<Write>, batch: &mut Batch) -> Response {
        let now = now();
        let (response, effects) = self.engine.handle(now, event);
        if matches!(response, Response::Batch { is_new: true, .. }) {
            batch.writes.extend(attached);
        }
        for effect in effects {
            match effect {
                Effect::Save(id) => drop(batch.dirty.insert(id)),
                Effect::Wake(session) => batch.wakes.push(session),
                Effect::Record { job, worker, kind, text } => {
                    let entry = JournalEntry { seq: 0, unix_ms: now.0, job, worker, kind: kind.into(), text };
                    batch.writes.push(Write::Journal(entry));
                }
            }
        }
        response
    }

    /// Persist, send, acknowledge.
    async fn settle(&mut self, batch: Batch) {
        if !batch.writes.is_empty() {
            match self.store.apply(batch.writes).await {
                Ok(entries) => self.publish(&batch.dirty, entries),
                Err(e) => {
                    tracing::error!(error = %e, "state could not be stored; nothing of the batch is acknowledged");
                    self.reload().await;
                    for (reply, _) in batch.replies {
                        let _ = reply.send(Err(CallError::NotDurable(e.to_string())));
                    }
                    return;
                }
            }
        }
        for session in batch.wakes {
            if let Some(waiter) = self.shared.waiters().get(&session) {
                waiter.notify_one();
            }
        }
        for (reply, response) in batch.replies {
            let _ = reply.send(Ok(response));
        }
    }

    fn publish(&self, dirty: &BTreeSet<JobId>, entries: Vec<JournalEntry>) {
        for job in dirty.iter().filter_map(|&id| self.engine.job(id)) {
            let _ = self.shared.jobs.send(Arc::new(job.clone()));
        }
        for entry in entries {
            if let Some(job) = entry.job {
                tracing::info!(%job, worker = entry.worker.as_deref().unwrap_or_default(), "{} {}", entry.kind, entry.text);
            } else {
                tracing::info!(worker = entry.worker.as_deref().unwrap_or_default(), "{} {}", entry.kind, entry.text);
            }
            let _ = self.shared.events.send(entry);
        }
    }

    /// Goes back to what is durable. Workers find their sessions unknown and register again.
    async fn reload(&mut self) {
        loop {
            match self.store.jobs().await {
                Ok(jobs) => {
                    self.engine = Engine::new(self.engine.limits(), jobs, now());
                    self.shared.waiters().clear();
                    return;
                }
                Err(e) => {
                    tracing::error!(error = %e, "state cannot be read; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}
