//! Everything in memory: for tests, and for measuring what durability costs.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qlora_engine::{Job, JobId, Reserved};

use crate::error::StoreError;
use crate::records::{
    ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, Write,
};

/// Forgets everything when dropped.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    coordinator_id: String,
}

impl Default for MemoryStore {
    fn default() -> Self {
        // Every hasher of the standard library has random keys.
        let [high, low] = [0, 1].map(|half| RandomState::new().hash_one(half));
        Self {
            state: Mutex::default(),
            coordinator_id: format!("{high:016x}{low:016x}"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<JobId, Job>,
    metrics: BTreeMap<JobId, Vec<MetricRecord>>,
    logs: BTreeMap<JobId, Vec<LogRecord>>,
    journal: Vec<JournalEntry>,
    configs: Vec<ConfigRevision>,
    reserved: Reserved,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn page<T: Clone>(all: Option<&Vec<T>>, after: u64, limit: u32) -> Vec<T> {
    all.into_iter()
        .flatten()
        .skip(after as usize)
        .take(limit as usize)
        .cloned()
        .collect()
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
                    state.metrics.remove(&job);
                    state.logs.remove(&job);
                }
                Write::Metrics { job, points } => {
                    let all = state.metrics.entry(job).or_default();
                    for point in points {
                        all.push(MetricRecord {
                            seq: all.len() as u64 + 1,
                            ..point
                        });
                    }
                }
                Write::Logs { job, lines } => {
                    let all = state.logs.entry(job).or_default();
                    for line in lines {
                        all.push(LogRecord {
                            seq: all.len() as u64 + 1,
                            ..line
                        });
                    }
                }
                Write::Journal(entry) => {
                    let entry = JournalEntry {
                        seq: state.journal.len() as u64 + 1,
                        ..entry
                    };
                    state.journal.push(entry.clone());
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        let state = self.state();
        let jobs = state.jobs.values().cloned().collect();
        let (reserved, coordinator_id) = (state.reserved.clone(), self.coordinator_id.clone());
        Ok(Stored {
            jobs,
            unreadable: Vec::new(),
            reserved,
            coordinator_id,
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

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(page(Some(&self.state().journal), after, limit))
    }

    async fn put_config(
        &self,
        name: &str,
        yaml: &str,
        hash: &str,
        unix_ms: u64,
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
