//! Ended jobs go, or parts of them: those that a person asks for, and those beyond what the
//! coordinator was told to keep.
//!
//! Each job is an event of its own, so that workers and people are heard between two of them. The
//! engine chooses the jobs and knows what of the artifact store they free.

use std::collections::BTreeSet;

use qlora_engine::{Engine, Event, JobId, Millis, Prune, Refusal};
use qlora_proto::DAY_MS;
use qlora_proto::words::count;
use qlora_store::{By, JobStore};

use crate::driver::Handle;
use crate::error::CallError;

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub what: Prune,
    /// Of jobs that ended so many milliseconds ago.
    pub older_than: u64,
    /// But for so many that ended last.
    pub keep: u64,
    /// None but these, where there are any.
    pub only: BTreeSet<JobId>,
}

/// How much of ended jobs the coordinator keeps by itself; all where nothing is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    pub days: Option<u64>,
    pub jobs: Option<u64>,
    /// Of the artifact store.
    pub bytes: Option<u64>,
}

/// An ended job that is to go, or a part of it.
#[derive(Debug, Clone)]
pub struct Going {
    pub job: JobId,
    pub what: Prune,
    /// For the journal.
    pub reason: String,
    /// Of the artifact store, that are freed once those before it are gone.
    pub artifact_bytes: u64,
}

impl Asked {
    /// In words, for the journal.
    fn reason(&self) -> String {
        match (self.older_than, self.keep) {
            (0, 0) => "pruned by user, all that ended".into(),
            (0, keep) => format!("pruned by user, all but the newest {keep}"),
            (age, 0) => format!("pruned by user, all that ended {} ago", days(age)),
            (age, keep) => format!(
                "pruned by user, all that ended {} ago but the newest {keep}",
                days(age)
            ),
        }
    }

    /// The jobs that are meant, at the time `now`.
    pub fn choose(&self, engine: &Engine, now: Millis) -> Vec<Going> {
        let until = Millis(now.0.saturating_sub(self.older_than));
        let keep = usize::try_from(self.keep).unwrap_or(usize::MAX);
        let mut ids = engine.prunable(self.what, until, keep);
        ids.retain(|id| self.only.is_empty() || self.only.contains(id));
        let reason = self.reason();
        let chosen = ids.into_iter().map(|id| (id, reason.clone()));
        going(engine, self.what, chosen.collect())
    }
}

impl Retention {
    /// Whether anything goes by itself.
    pub fn is_set(&self) -> bool {
        self.days.is_some() || self.jobs.is_some() || self.bytes.is_some()
    }

    /// The jobs that are beyond what is kept at the time `now`, each for the first reason that
    /// there is.
    pub fn choose(&self, engine: &Engine, now: Millis) -> Vec<Going> {
        let mut chosen: Vec<(JobId, String)> = Vec::new();
        let mut add = |ids: Vec<JobId>, reason: String| {
            let known: BTreeSet<JobId> = chosen.iter().map(|(id, _)| *id).collect();
            let new = ids.into_iter().filter(|id| !known.contains(id));
            chosen.extend(new.map(|id| (id, reason.clone())));
        };
        if let Some(days) = self.days {
            let until = Millis(now.0.saturating_sub(days.saturating_mul(DAY_MS)));
            let reason = format!("it ended {} ago (--keep-jobs-days)", count(days, "day"));
            add(engine.prunable(Prune::Job, until, 0), reason);
        }
        if let Some(jobs) = self.jobs {
            let keep = usize::try_from(jobs).unwrap_or(usize::MAX);
            let reason = format!("{} ended after it (--keep-jobs)", count(jobs, "job"));
            add(engine.prunable(Prune::Job, Millis(u64::MAX), keep), reason);
        }
        if let Some(bytes) = self.bytes {
            let reason = format!("artifacts take more than {bytes} bytes (--keep-bytes)");
            add(engine.beyond_bytes(bytes), reason);
        }
        going(engine, Prune::Job, chosen)
    }
}

/// Milliseconds as days.
fn days(ms: u64) -> String {
    count(ms / DAY_MS, "day")
}

fn going(engine: &Engine, what: Prune, chosen: Vec<(JobId, String)>) -> Vec<Going> {
    let ids: Vec<JobId> = chosen.iter().map(|(id, _)| *id).collect();
    let freed = engine.freed(what, &ids);
    let one = |((job, reason), artifact_bytes)| Going {
        job,
        what,
        reason,
        artifact_bytes,
    };
    chosen.into_iter().zip(freed).map(one).collect()
}

impl Going {
    /// Bytes that are freed in all.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn bytes(&self, store: &impl JobStore) -> Result<u64, CallError> {
        let records = match self.what {
            Prune::Artifacts => 0,
            Prune::Job | Prune::Records => store.record_bytes(self.job).await?,
        };
        Ok(self.artifact_bytes.saturating_add(records))
    }

    /// Lets it go, asked for `by` somebody; whether it was still there.
    ///
    /// # Errors
    /// It cannot be made durable, and stays.
    pub async fn go(self, driver: &Handle, by: Option<By>) -> Result<bool, CallError> {
        let Self {
            job, what, reason, ..
        } = self;
        let event = Event::Prune { job, what, reason };
        match driver.event_by(event, by).await {
            Ok(_) => Ok(true),
            // Somebody else was faster.
            Err(CallError::Refused(Refusal::UnknownJob(_))) => Ok(false),
            // It is set aside and named.
            Err(CallError::Unreadable { .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_engine::{File, FileRole, Job, JobKind, JobSpec, JobState, Limits, Now};

    use super::*;

    fn spec(id: u64) -> JobSpec {
        let file = File {
            role: FileRole::Train,
            name: "t".into(),
            digest: format!("of {id}"),
            size: 10,
        };
        JobSpec {
            kind: JobKind::Train,
            files: vec![file],
            ..JobSpec::noop(format!("job {id}"))
        }
    }

    /// Jobs 1, 2 and so on, which ended after so many days, and one that waits; each has a file of
    /// 10 bytes.
    fn engine(ended: &[u64]) -> Engine {
        let job = |id| Job::new(JobId(id), spec(id), Now::both(0));
        let mut jobs = vec![job(99)];
        for (id, days) in (1..).zip(ended) {
            let at = Millis(days * DAY_MS);
            jobs.push(Job {
                state: JobState::Succeeded { at },
                ..job(id)
            });
        }
        let mut engine = Engine::new(Limits::default(), jobs, Now::both(0), [0; 32]);
        engine.put_ended_away();
        engine
    }

    fn numbers(going: &[Going]) -> Vec<u64> {
        going.iter().map(|going| going.job.0).collect()
    }

    #[test]
    fn each_bound_lets_go_what_is_beyond_it_and_none_keeps_all() {
        let engine = engine(&[1, 2, 3, 4]);
        let now = Millis(5 * DAY_MS);
        let chosen = |retention: Retention| retention.choose(&engine, now);
        let none = Retention::default();
        assert!(!none.is_set() && chosen(none).is_empty());
        let [days, jobs, bytes] = [
            Retention {
                days: Some(3),
                ..none
            },
            Retention {
                jobs: Some(1),
                ..none
            },
            Retention {
                bytes: Some(40),
                ..none
            },
        ];
        assert_eq!(numbers(&chosen(days)), [1, 2]);
        assert_eq!(numbers(&chosen(jobs)), [1, 2, 3]);
        assert_eq!(numbers(&chosen(bytes)), [1], "50 bytes are there");
        let all = chosen(Retention {
            days: Some(3),
            jobs: Some(1),
            bytes: Some(0),
        });
        assert_eq!(numbers(&all), [1, 2, 3, 4], "what waits stays");
        for (going, option) in all.iter().zip([
            "--keep-jobs-days",
            "--keep-jobs-days",
            "--keep-jobs)",
            "--keep-bytes",
        ]) {
            assert!(going.reason.contains(option), "{}", going.reason);
            assert_eq!(going.artifact_bytes, 10);
        }
    }

    #[test]
    fn a_person_names_an_age_and_a_number_and_only_what_was_shown_goes() {
        let engine = engine(&[1, 2, 3, 4]);
        let asked = |days, keep, only: &[u64]| Asked {
            what: Prune::Job,
            older_than: days * DAY_MS,
            keep,
            only: only.iter().map(|id| JobId(*id)).collect(),
        };
        let chosen = |asked: Asked| numbers(&asked.choose(&engine, Millis(5 * DAY_MS)));
        assert_eq!(chosen(asked(2, 0, &[])), [1, 2, 3]);
        assert_eq!(chosen(asked(2, 2, &[])), [1, 2]);
        assert_eq!(chosen(asked(0, 2, &[])), [1, 2]);
        assert_eq!(chosen(asked(0, 0, &[2, 99])), [2]);
        assert_eq!(
            asked(2, 2, &[]).reason(),
            "pruned by user, all that ended 2 days ago but the newest 2"
        );
    }
}
