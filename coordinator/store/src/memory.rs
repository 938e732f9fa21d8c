//! Everything in memory: for tests, and for measuring what durability costs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qlora_engine::{Drain, Ended, Job, JobId, Reserved};

use crate::bounds::{Bounds, Thinning, superfluous};
use crate::error::StoreError;
use crate::page::{JobQuery, Page};
use crate::records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord, Write,
};

/// Forgets everything when dropped.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    bounds: Bounds,
    coordinator_id: String,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::within(Bounds::default())
    }
}

impl MemoryStore {
    /// A store with other bounds of what is kept.
    pub fn within(bounds: Bounds) -> Self {
        // Every hasher of the standard library has random keys.
        let [high, low] = [0, 1].map(|half| RandomState::new().hash_one(half));
        Self {
            state: Mutex::default(),
            bounds,
            coordinator_id: format!("{high:016x}{low:016x}"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<JobId, Job>,
    drains: BTreeMap<String, Drain>,
    metrics: BTreeMap<JobId, Vec<MetricRecord>>,
    logs: BTreeMap<JobId, Vec<LogRecord>>,
    journal: Vec<JournalEntry>,
    configs: Vec<ConfigRevision>,
    tokens: BTreeMap<u64, TokenRecord>,
    reserved: Reserved,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has a number; those that are missing before it are gone.
trait Numbered: Clone {
    fn seq(&self) -> u64;
}

impl Numbered for MetricRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for LogRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for JournalEntry {
    fn seq(&self) -> u64 {
        self.seq
    }
}

fn next_seq<T: Numbered>(all: &[T]) -> u64 {
    all.last().map_or(1, |last| last.seq() + 1)
}

fn page<T: Numbered>(all: Option<&Vec<T>>, after: u64, limit: u32) -> Vec<T> {
    let all = all.into_iter().flatten();
    all.filter(|one| one.seq() > after)
        .take(limit as usize)
        .cloned()
        .collect()
}

impl State {
    fn remove_records(&mut self, job: JobId) {
        self.metrics.remove(&job);
        self.logs.remove(&job);
    }

    fn add_metrics(&mut self, job: JobId, points: Vec<MetricRecord>, bounds: Bounds) {
        let all = self.metrics.entry(job).or_default();
        let first = next_seq(all);
        let numbered = (first..).zip(points);
        all.extend(numbered.map(|(seq, point)| MetricRecord { seq, ..point }));
        if let Some(Thinning { until, stretch }) = bounds.thinning(first, next_seq(all) - 1) {
            let old = all.partition_point(|point| point.seq <= until);
            let gone: BTreeSet<u64> = superfluous(&all[..old], stretch).into_iter().collect();
            all.retain(|point| !gone.contains(&point.seq));
        }
    }

    fn add_logs(&mut self, job: JobId, lines: Vec<LogRecord>, bounds: Bounds) {
        let all = self.logs.entry(job).or_default();
        let first = next_seq(all);
        let numbered = (first..).zip(lines);
        all.extend(numbered.map(|(seq, line)| LogRecord { seq, ..line }));
        if let Some(until) = bounds.cut_log(first, next_seq(all) - 1) {
            all.retain(|line| line.seq > until);
        }
    }

    fn add_entry(&mut self, entry: JournalEntry, bounds: Bounds) -> JournalEntry {
        let seq = next_seq(&self.journal);
        let entry = JournalEntry { seq, ..entry };
        self.journal.push(entry.clone());
        if let Some(until) = bounds.cut_journal(seq) {
            let old = self.journal.iter().rev().filter(|e| e.seq <= until);
            let mut asked = old.filter(|e| e.by.is_some());
            let gone = asked.nth(bounds.asked as usize).map_or(0, |e| e.seq);
            self.journal
                .retain(|e| e.seq > until || (e.by.is_some() && e.seq > gone));
        }
        entry
    }
}

impl JobStore for MemoryStore {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let mut state = self.state();
        let mut entries = Vec::new();
        for write in writes {
            match write {
                Write::SaveJob(job) => {
                    let Reserved { job: id, token, .. } = &mut state.reserved;
                    *id = job.id.max(*id);
                    *token = job.attempts.iter().map(|a| a.token).fold(*token, Ord::max);
                    state.jobs.insert(job.id, *job);
                }
                Write::RemoveJob(job) => {
                    state.jobs.remove(&job);
                    state.remove_records(job);
                }
                Write::RemoveRecords(job) => state.remove_records(job),
                Write::Metrics { job, points } => state.add_metrics(job, points, self.bounds),
                Write::Logs { job, lines } => state.add_logs(job, lines, self.bounds),
                Write::Journal(entry) => entries.push(state.add_entry(entry, self.bounds)),
                Write::SaveDrain {
                    worker,
                    drain: Some(drain),
                } => drop(state.drains.insert(worker, drain)),
                Write::SaveDrain {
                    worker,
                    drain: None,
                } => drop(state.drains.remove(&worker)),
                Write::AddToken(token) => drop(state.tokens.insert(token.id, *token)),
                Write::RevokeToken { id, unix_ms } => {
                    if let Some(token) = state.tokens.get_mut(&id) {
                        token.revoked_unix_ms = token.revoked_unix_ms.or(Some(unix_ms));
                    }
                }
                Write::RemoveToken(id) => drop(state.tokens.remove(&id)),
                Write::TokenUsed { id, day } => {
                    if let Some(token) = state.tokens.get_mut(&id) {
                        token.used_day = token.used_day.max(Some(day));
                    }
                }
            }
        }
        Ok(entries)
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        let state = self.state();
        let live = state.jobs.values().filter(|job| !job.state.is_final());
        let jobs = live.cloned().collect();
        let ended = state.jobs.values().filter_map(Ended::of).collect();
        let (reserved, coordinator_id) = (state.reserved.clone(), self.coordinator_id.clone());
        Ok(Stored {
            jobs,
            ended,
            unreadable: Vec::new(),
            drains: state.drains.clone(),
            reserved,
            coordinator_id,
        })
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.state().jobs.get(&id).cloned())
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Page, StoreError> {
        let state = self.state();
        let has_state = |job: &Job| {
            let states = query.states.as_ref();
            states.is_none_or(|states| states.contains(&job.state.word()))
        };
        let before = state.jobs.range(..query.before).rev();
        let found = before.filter(|(_, job)| has_state(job)).map(|(id, _)| *id);
        let (ids, next) = query.cut(found.take(query.limit as usize + 1).collect());
        let jobs = ids.iter().filter_map(|id| state.jobs.get(id)).cloned();
        Ok(Page {
            jobs: jobs.collect(),
            next,
        })
    }

    async fn metrics(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<MetricRecord>, StoreError> {
        Ok(page(self.state().metrics.get(&job), after, limit))
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        Ok(page(self.state().logs.get(&job), after, limit))
    }

    async fn last_logs(&self, job: JobId, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let state = self.state();
        let all = state.logs.get(&job).map_or(&[][..], Vec::as_slice);
        Ok(all[all.len().saturating_sub(limit as usize)..].to_vec())
    }

    async fn record_bytes(&self, job: JobId) -> Result<u64, StoreError> {
        let state = self.state();
        let lines = state.logs.get(&job).into_iter().flatten();
        let points = state.metrics.get(&job).into_iter().flatten();
        let values = points.flat_map(|point| point.values.keys());
        // A number and its name, about as the database writes them.
        let of_values: usize = values.map(|name| name.len() + size_of::<f64>()).sum();
        let of_lines: usize = lines.map(|line| line.text.len()).sum();
        Ok((of_values + of_lines) as u64)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(page(Some(&self.state().journal), after, limit))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        Ok(self.state().tokens.values().cloned().collect())
    }

    async fn put_config(
        &self,
        name: &str,
        yaml: &str,
        hash: &str,
        unix_ms: u64,
        by: Option<By>,
    ) -> Result<ConfigRevision, StoreError> {
        let mut state = self.state();
        let newest = state
            .configs
            .iter()
            .filter(|c| c.name == name)
            .max_by_key(|c| c.revision)
            .cloned();
        if let Some(same) = newest.as_ref().filter(|c| c.hash == hash) {
            return Ok(same.clone());
        }
        let revision = newest.map_or(0, |c| c.revision) + 1;
        let made = ConfigRevision {
            name: name.into(),
            revision,
            yaml: yaml.into(),
            hash: hash.into(),
            unix_ms,
        };
        state.configs.push(made.clone());
        if let Some(by) = by {
            state.add_entry(made.entry(by), self.bounds);
        }
        Ok(made)
    }

    async fn config(&self, name: &str, revision: u64) -> Result<ConfigRevision, StoreError> {
        let state = self.state();
        let fits =
            |c: &&ConfigRevision| c.name == name && (revision == 0 || c.revision == revision);
        let found = state
            .configs
            .iter()
            .filter(fits)
            .max_by_key(|c| c.revision)
            .cloned();
        found.ok_or_else(|| StoreError::NoConfig {
            name: name.into(),
            revision,
        })
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        let state = self.state();
        if let Some(name) = name {
            return Ok(state
                .configs
                .iter()
                .filter(|c| c.name == name)
                .cloned()
                .collect());
        }
        let newest: BTreeMap<_, _> = state
            .configs
            .iter()
            .map(|c| (c.name.clone(), c.clone()))
            .collect();
        Ok(newest.into_values().collect())
    }
}
