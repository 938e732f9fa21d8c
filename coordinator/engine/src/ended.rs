//! An ended job in brief: what the engine goes on knowing of it while the job itself lies in the
//! store.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Millis};
use crate::job::{Final, Job};
use crate::prune::Prune;

/// An ended job in brief. There may be a million of them, so what few jobs have lies apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Brief", into = "Brief")]
pub struct Ended {
    pub id: JobId,
    pub at: Millis,
    pub how: Final,
    records_pruned: bool,
    kept: Option<Box<Kept>>,
}

/// What an ended job keeps others from using.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kept {
    idempotency_key: Option<String>,
    /// Digests and bytes of its inputs, and of what it made.
    files: Vec<(String, u64)>,
    artifacts: Vec<(String, u64)>,
    used: Option<Used>,
}

/// What a job has used of its owner's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    pub owner: String,
    /// As [`Job::used`].
    pub by_day: Vec<(u64, u64)>,
}

impl Used {
    fn of(job: &Job) -> Option<Self> {
        let by_day = Vec::from_iter(job.used());
        (!by_day.is_empty()).then(|| Self {
            owner: job.spec.owner.clone(),
            by_day,
        })
    }
}

/// An [`Ended`] as it is stored.
#[derive(Serialize, Deserialize)]
struct Brief {
    id: JobId,
    at: Millis,
    how: Final,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    records_pruned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<(String, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    artifacts: Vec<(String, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
}

impl From<Brief> for Ended {
    fn from(brief: Brief) -> Self {
        let kept = Kept {
            idempotency_key: brief.idempotency_key,
            files: brief.files,
            artifacts: brief.artifacts,
            used: brief.used,
        };
        Self {
            id: brief.id,
            at: brief.at,
            how: brief.how,
            records_pruned: brief.records_pruned,
            kept: (kept != Kept::default()).then(|| Box::new(kept)),
        }
    }
}

impl From<Ended> for Brief {
    fn from(ended: Ended) -> Self {
        let kept = ended.kept.map(|kept| *kept).unwrap_or_default();
        Self {
            id: ended.id,
            at: ended.at,
            how: ended.how,
            records_pruned: ended.records_pruned,
            idempotency_key: kept.idempotency_key,
            files: kept.files,
            artifacts: kept.artifacts,
            used: kept.used,
        }
    }
}

impl Ended {
    /// `job` in brief; none where it has not ended.
    pub fn of(job: &Job) -> Option<Self> {
        let how = job.state.end()?;
        let files = job.spec.files.iter();
        let artifacts = job.artifacts.iter();
        Some(Self::from(Brief {
            id: job.id,
            at: job.state.ended()?,
            how,
            records_pruned: job.pruned.records,
            idempotency_key: job.spec.idempotency_key.clone(),
            files: files.map(|f| (f.digest.clone(), f.size)).collect(),
            artifacts: artifacts.map(|a| (a.digest.clone(), a.size)).collect(),
            used: Used::of(job),
        }))
    }

    pub fn idempotency_key(&self) -> Option<&str> {
        self.kept.as_ref()?.idempotency_key.as_deref()
    }

    /// Takes out what it has used: once its owner's account has that, to keep it for each of so many
    /// jobs would be for nothing.
    pub(crate) fn take_used(&mut self) -> Option<Used> {
        let used = self.kept.as_mut()?.used.take();
        if self.kept.as_deref() == Some(&Kept::default()) {
            self.kept = None;
        }
        used
    }

    /// Digests and bytes of its inputs.
    fn files(&self) -> &[(String, u64)] {
        self.kept.as_ref().map_or(&[], |kept| &kept.files)
    }

    /// Digests and bytes of what it made.
    fn artifacts(&self) -> &[(String, u64)] {
        self.kept.as_ref().map_or(&[], |kept| &kept.artifacts)
    }

    /// Whether the job needs anything in the artifact store.
    pub fn has_artifacts(&self) -> bool {
        self.needed().next().is_some()
    }

    /// Digests of everything in the artifact store that the job needs, and their bytes.
    pub(crate) fn needed(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.files().iter().chain(self.artifacts());
        all.map(|(digest, bytes)| (digest.as_str(), *bytes))
    }

    /// Digests that the job needs no more once `what` of it is gone, each once.
    pub(crate) fn let_go(&self, what: Prune) -> BTreeSet<&str> {
        match what {
            Prune::Job => self.needed().map(|(digest, _)| digest).collect(),
            Prune::Artifacts => {
                let is_given = |digest: &str| self.files().iter().any(|(file, _)| file == digest);
                let made = self.artifacts().iter().map(|(digest, _)| digest.as_str());
                made.filter(|digest| !is_given(digest)).collect()
            }
            Prune::Records => BTreeSet::new(),
        }
    }

    /// Whether anything is left of the job that `what` would delete.
    pub(crate) fn has(&self, what: Prune) -> bool {
        match what {
            Prune::Job => true,
            Prune::Artifacts => !self.artifacts().is_empty(),
            Prune::Records => !self.records_pruned,
        }
    }
}
