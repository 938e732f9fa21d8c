//! The one task that owns the engine.
//!
//! It works in this order and no other: handle, persist, send, acknowledge. Events that wait
//! together are stored in one transaction, so that one fsync serves many. Reads see only what is
//! durable.
//!
//! When storing fails, the engine takes back what it did, and nothing that has to be stored is
//! acknowledged. Workers do not suffer for it: their sessions stay, their leases are renewed, and
//! requests that need no storing are answered. Everything resumes as soon as a write succeeds.

mod awake;
mod batch;
mod handle;
mod trouble;
mod waiter;
mod watchers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qlora_engine::{Effect, Engine, Event, Job, JobId, JournalKind, Limits, Response, SessionId};
use qlora_store::{By, JobStore, JournalEntry, StoreError, Stored, Unreadable, Write};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use self::awake::{Awake, Missed};
use self::batch::{Answer, Batch, Released, Reply};
use self::handle::{BROADCAST, Command, Shared};
pub use self::handle::{Handle, Records};
use self::trouble::Trouble;
pub use self::waiter::Waiter;
use crate::clock::now;
use crate::error::CallError;
use crate::names;

/// Events that are stored in one transaction at the most.
const BATCH: usize = 1024;
/// Journal entries that wait for room at the most; older ones go.
const UNWRITTEN: usize = 1000;
/// While leases are watched, the driver looks about at least so often: what it is late by, it stood
/// still.
const BEAT: Duration = Duration::from_millis(500);

/// Owns the engine and the store.
pub struct Driver<S> {
    engine: Engine,
    store: Arc<S>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    trouble: Trouble,
    artifacts: Box<dyn Artifacts>,
    /// Entries of events that were acknowledged though nothing could be stored.
    unwritten: VecDeque<JournalEntry>,
    /// When it last looked about.
    awake: Awake,
}

/// What the driver asks of whoever keeps artifacts; neither waits.
pub trait Artifacts: Send + 'static {
    /// The disk is full: what can be had again may go.
    fn make_room(&self);
    /// No job needs this one any more.
    fn release(&self, digest: &str);
}

impl<S: JobStore> Driver<S> {
    /// As [`Self::start_with`], with the state that `store` has and some seed.
    #[cfg(test)]
    pub async fn start(
        store: Arc<S>,
        limits: Limits,
        artifacts: impl Artifacts,
    ) -> Result<Handle, CallError> {
        let stored = store.load().await?;
        let seed = crate::random::seed().map_err(|e| CallError::Random(e.to_string()))?;
        Ok(Self::start_with(store, stored, limits, artifacts, seed))
    }

    /// Starts the task on the state that was read of `store`; it ends when every [`Handle`] is gone.
    /// Sessions and tokens come of `seed`, which nobody may guess.
    pub fn start_with(
        store: Arc<S>,
        stored: Stored,
        limits: Limits,
        artifacts: impl Artifacts,
        seed: [u8; 32],
    ) -> Handle {
        let Stored {
            jobs,
            ended,
            unreadable,
            drains,
            reserved,
            coordinator_id,
        } = stored;
        let mut engine = Engine::new(limits, jobs, now(), seed);
        engine.adopt_ended(ended);
        engine.put_ended_away();
        engine.reserve(reserved);
        engine.adopt_drains(drains);
        let (sender, commands) = mpsc::channel(4 * BATCH);
        let shared = Arc::new(Shared {
            watchers: Arc::default(),
            events: broadcast::channel(BROADCAST).0,
            waiters: Mutex::default(),
            unreadable: Mutex::default(),
            coordinator_id,
            limits,
        });
        let mut driver = Self {
            engine,
            store,
            commands,
            shared: shared.clone(),
            trouble: Trouble::default(),
            artifacts: Box::new(artifacts),
            unwritten: VecDeque::new(),
            awake: Awake::now(),
        };
        driver.set_aside(unreadable);
        tokio::spawn(driver.run());
        Handle {
            commands: sender,
            shared,
        }
    }

    /// Sets jobs aside that cannot be read, and says so: in the log at every start, in the journal
    /// once.
    fn set_aside(&mut self, unreadable: Vec<Unreadable>) {
        for Unreadable { job, fault, told } in unreadable {
            let known = self.shared.unreadable().insert(job, fault.clone());
            if known.is_none() {
                tracing::error!(%job, "the job cannot be read and is set aside: {fault}");
            }
            if known.is_none() && !told {
                let (unix_ms, kind) = (now().wall.0, names::event_kind(JournalKind::Unreadable));
                let entry = JournalEntry {
                    seq: 0,
                    unix_ms,
                    job: Some(job),
                    worker: None,
                    kind: kind.into(),
                    text: fault,
                    by: None,
                };
                self.unwritten.push_back(entry);
            }
        }
    }

    async fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.deadline();
            // Each round looks at deadlines as well: none is late for the order.
            tokio::select! {
                biased;
                received = self.commands.recv_many(&mut waiting, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {}
            }
            self.look_about();
            let batch = self.handle(waiting.drain(..)).await;
            self.settle(batch).await;
        }
    }

    fn deadline(&self) -> Instant {
        let now = now().steady;
        let next = self
            .engine
            .next_deadline(now)
            .map_or(60_000, |t| t.0.saturating_sub(now.0).clamp(1, 60_000));
        let next = Instant::now() + Duration::from_millis(next);
        let next = self.trouble.until().map_or(next, |pause| next.max(pause));
        if self.engine.watches_leases() {
            next.min(Instant::now() + BEAT)
        } else {
            next
        }
    }

    /// A store that answered late, a process that was stopped, a machine that slept: nobody could
    /// renew a lease meanwhile, and nobody is to lose one for it.
    fn look_about(&mut self) {
        let now_awake = Awake::now();
        let Missed { still, slept } = self.awake.missed(now_awake, BEAT);
        self.awake = now_awake;
        if slept > BEAT {
            tracing::warn!(
                ms = slept.as_millis() as u64,
                "the machine slept; leases stood still meanwhile"
            );
        }
        if still > BEAT && self.engine.watches_leases() {
            let ms = still.as_millis() as u64;
            tracing::warn!(
                ms,
                "the coordinator stood still; every lease is extended by as much"
            );
            self.engine.handle(now(), Event::Stalled { ms });
        }
    }

    async fn handle(&mut self, commands: impl Iterator<Item = Command>) -> Batch {
        let mut batch = Batch::default();
        let mut events = Vec::new();
        for command in commands {
            match command {
                // Before any event of the batch: what these lead to is not durable yet.
                Command::Read(look) => look(&self.engine),
                Command::Forget { event } => events.push((event, Records::default(), None, None)),
                Command::Event {
                    event,
                    records,
                    by,
                    reply,
                } => events.push((event, records, by, Some(reply))),
            }
        }
        for (event, records, by, reply) in events {
            if let Err(fault) = recall(&mut self.engine, &*self.store, &event).await {
                self.refuse(reply, fault);
                continue;
            }
            let again = needs_no_store(&event).then(|| event.clone());
            let response = self.one(event, records, by.as_ref(), &mut batch);
            batch.answers.push(Answer {
                reply,
                response,
                again,
            });
        }
        if self
            .trouble
            .until()
            .is_none_or(|pause| pause <= Instant::now())
        {
            self.one(Event::Tick, Records::default(), None, &mut batch);
        }
        self.collect(&mut batch);
        batch
    }

    /// Answers an event that was not handled: a job that it names could not be read.
    fn refuse(&mut self, reply: Option<Reply>, fault: CallError) {
        if let CallError::Unreadable { job, fault } = &fault {
            let (job, fault, told) = (*job, fault.clone(), false);
            self.set_aside(vec![Unreadable { job, fault, told }]);
        }
        if let Some(reply) = reply {
            drop(reply.send(Err(fault)));
        }
    }

    /// Adds the jobs that changed to what is to be written.
    fn collect(&self, batch: &mut Batch) {
        let changed = batch.dirty.iter().filter_map(|&id| self.engine.job(id));
        batch
            .writes
            .extend(changed.map(|job| Write::SaveJob(Box::new(job.clone()))));
    }

    /// What the journal tells of it is told as asked for `by` somebody, in the transaction of the
    /// change itself.
    fn one(
        &mut self,
        event: Event,
        records: Records,
        by: Option<&By>,
        batch: &mut Batch,
    ) -> Response {
        let now = now();
        let (response, effects) = self.engine.handle(now, event);
        if let Response::Batch {
            job, is_new: true, ..
        } = response
        {
            batch.writes.extend(records.writes(job));
        }
        for effect in effects {
            match effect {
                Effect::Save(id) => drop(batch.dirty.insert(id)),
                Effect::Wake(session) => batch.wakes.push(session),
                Effect::Remove(id) => batch.writes.push(Write::RemoveJob(id)),
                Effect::RemoveRecords(id) => batch.writes.push(Write::RemoveRecords(id)),
                Effect::SaveDrain { worker, drain } => {
                    batch.writes.push(Write::SaveDrain { worker, drain });
                }
                Effect::Release {
                    job,
                    config_hash,
                    digest,
                } => batch.released.push(Released {
                    job,
                    config_hash,
                    digest,
                }),
                Effect::Record {
                    job,
                    worker,
                    kind,
                    text,
                } => {
                    let entry = JournalEntry {
                        seq: 0,
                        unix_ms: now.wall.0,
                        job,
                        worker,
                        kind: names::event_kind(kind).into(),
                        text,
                        by: by.cloned(),
                    };
                    batch.writes.push(Write::Journal(entry));
                }
            }
        }
        response
    }

    /// Persist, send, acknowledge.
    async fn settle(&mut self, mut batch: Batch) {
        if !batch.writes.is_empty() || (!self.unwritten.is_empty() && !self.trouble.is_there()) {
            let late = self.unwritten.iter().cloned().map(Write::Journal);
            let writes: Vec<Write> = late.chain(std::mem::take(&mut batch.writes)).collect();
            let removed = removed(&writes);
            match self.store.apply(writes).await {
                Ok(entries) => {
                    self.unwritten.clear();
                    self.trouble.end();
                    self.publish(&batch.dirty, entries);
                    removed
                        .into_iter()
                        .for_each(|id| self.shared.watchers.end(id));
                }
                Err(fault) => return self.not_stored(batch, fault).await,
            }
        }
        self.engine.settled();
        self.engine.put_ended_away();
        self.wake(&batch.wakes);
        self.release(batch.released);
        self.keep_waiters(batch.answers.iter().map(|answer| &answer.response));
        for Answer {
            reply, response, ..
        } in batch.answers
        {
            if let Some(reply) = reply {
                let _ = reply.send(Ok(response));
            }
        }
    }

    /// Lets artifacts go that no job needs any more. What a job needs that cannot be read is not
    /// known: while there is one, all stay.
    fn release(&self, released: Vec<Released>) {
        if !self.shared.unreadable().is_empty() {
            return;
        }
        for Released {
            job,
            config_hash,
            digest,
        } in released
        {
            if !self.engine.may_need(&digest, job, &config_hash) {
                self.artifacts.release(&digest);
            }
        }
    }

    /// Nothing of `batch` is durable: it is as if it had not come, but for what needs no storing.
    async fn not_stored(&mut self, batch: Batch, fault: StoreError) {
        self.trouble.add(&fault);
        if let StoreError::DiskFull { .. } = fault {
            self.artifacts.make_room();
        }
        match fault {
            StoreError::Unsure { .. } => {
                self.reload(&batch.dirty).await;
                self.wake(&batch.wakes);
            }
            // What was to wake others did not happen; woken all the same, two who wait for one job
            // would ask, fail and wake each other without end.
            _ => self.engine.take_back(now()),
        }
        self.engine.put_ended_away();
        let refused = || CallError::of_write(&fault);
        for Answer { reply, again, .. } in batch.answers {
            let answer = again
                .and_then(|event| self.unstored(event))
                .ok_or_else(refused);
            if let Some(reply) = reply {
                let _ = reply.send(answer);
            }
        }
    }

    /// Handles an event on what is durable; none where it would change a job.
    fn unstored(&mut self, event: Event) -> Option<Response> {
        let mut alone = Batch::default();
        let response = self.one(event, Records::default(), None, &mut alone);
        if !alone.dirty.is_empty() {
            self.engine.take_back(now());
            return None;
        }
        self.engine.settled();
        self.keep_waiters([&response].into_iter());
        self.wake(&alone.wakes);
        for write in alone.writes {
            if let Write::Journal(entry) = write {
                self.unwritten.push_back(entry);
            }
        }
        let above = self.unwritten.len().saturating_sub(UNWRITTEN);
        self.unwritten.drain(..above);
        Some(response)
    }

    /// Gives every new session something to be notified by, before it is told of itself; those that
    /// are over lose theirs, and whose calls are held under one hears of it at once: who took its
    /// place may begin on its work.
    fn keep_waiters<'a>(&self, responses: impl Iterator<Item = &'a Response>) {
        let mut registered = responses.filter_map(|response| match response {
            Response::Registered { session } => Some(*session),
            _ => None,
        });
        let Some(first) = registered.next() else {
            return;
        };
        let mut waiters = self.shared.waiters();
        waiters.retain(|&session, waiter| {
            let is_known = self.engine.worker_of(session).is_some();
            if !is_known {
                waiter.woken.notify_one();
            }
            is_known
        });
        waiters.extend(
            registered
                .chain([first])
                .map(|session| (session, Arc::default())),
        );
    }

    fn wake(&self, sessions: &[SessionId]) {
        let waiters = self.shared.waiters();
        for waiter in sessions.iter().filter_map(|session| waiters.get(session)) {
            waiter.woken.notify_one();
        }
    }

    fn publish(&self, dirty: &BTreeSet<JobId>, entries: Vec<JournalEntry>) {
        for job in dirty.iter().filter_map(|&id| self.engine.job(id)) {
            self.shared.watchers.tell(job);
        }
        for entry in entries {
            let (worker, detail) = (
                entry.worker.as_deref(),
                Some(entry.text.as_str()).filter(|text| !text.is_empty()),
            );
            match entry.job {
                Some(job) => tracing::info!(%job, worker, detail, "job {}", entry.kind),
                None if worker.is_none() => tracing::info!(detail, "queue {}", entry.kind),
                None => tracing::info!(worker, detail, "worker {}", entry.kind),
            }
            let _ = self.shared.events.send(());
        }
    }

    /// Brings those of `changed` to hand that have ended, so that their watchers hear of it.
    async fn recall_ended(&mut self, changed: &BTreeSet<JobId>) {
        for &id in changed {
            match self.store.job(id).await {
                Ok(job) => job.into_iter().for_each(|job| self.engine.recall(job)),
                Err(e) => tracing::error!(job = %id, "watchers do not hear of a change: {e}"),
            }
        }
    }

    /// What is durable is not known: it is read, and taken for what is. Watchers hear of every job
    /// that may be another than they were told last: those of the write that is in doubt, `dirty`,
    /// and those that somebody else changed.
    async fn reload(&mut self, dirty: &BTreeSet<JobId>) {
        loop {
            match self.store.load().await {
                Ok(Stored {
                    jobs,
                    ended,
                    unreadable,
                    drains,
                    reserved,
                    ..
                }) => {
                    let is_other = |job: &&Job| self.engine.job(job.id) != Some(job);
                    let mut changed: BTreeSet<JobId> =
                        jobs.iter().filter(is_other).map(|job| job.id).collect();
                    changed.extend(dirty);
                    self.engine.restore(jobs, now());
                    self.engine.adopt_ended(ended);
                    self.engine.reserve(reserved);
                    self.engine.adopt_drains(drains);
                    self.set_aside(unreadable);
                    self.recall_ended(&changed).await;
                    self.publish(&changed, Vec::new());
                    return;
                }
                Err(e) => {
                    tracing::error!("state cannot be read; trying again: {e}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Brings ended jobs to hand that `event` needs.
async fn recall<S: JobStore>(
    engine: &mut Engine,
    store: &S,
    event: &Event,
) -> Result<(), CallError> {
    for id in engine.away(event) {
        match store.job(id).await {
            Ok(job) => job.into_iter().for_each(|job| engine.recall(job)),
            Err(StoreError::Unreadable { fault, .. }) => {
                return Err(CallError::Unreadable { job: id, fault });
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(())
}

/// Jobs that `writes` delete.
fn removed(writes: &[Write]) -> Vec<JobId> {
    let job = |write: &Write| match write {
        Write::RemoveJob(id) => Some(*id),
        _ => None,
    };
    writes.iter().filter_map(job).collect()
}

/// Whether an event is worth handling though nothing can be stored: workers come, stay and go.
fn needs_no_store(event: &Event) -> bool {
    matches!(
        event,
        Event::Register { .. } | Event::Synchronize { .. } | Event::Leave { .. }
    )
}
