//! The sessions that coordinators gave the workers of a state folder last.
//!
//! A worker that registers presents the one of the coordinator that answers. It tells a worker that
//! was restarted from one that runs on a copy of the state folder: only one of them is given the
//! next session.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qlora_proto::GivenSession;
use qlora_trainer::partial;
use serde::{Deserialize, Serialize};

use super::coordinator_id::CoordinatorId;

const FILE: &str = "sessions.json";
/// Sessions that are kept, of all workers and coordinators; the oldest go.
const KEPT: usize = 64;

/// What one coordinator gave one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    worker: String,
    coordinator: CoordinatorId,
    session: u64,
}

/// Shared by all workers of a state folder.
#[derive(Debug)]
pub struct Sessions {
    path: PathBuf,
    /// The newest comes last.
    given: Mutex<Vec<Given>>,
}

impl Sessions {
    /// Those that were written down in the state folder `folder`. Where they cannot be read there
    /// are none: the worker is taken all the same, once the lease of the one before has ended.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        let given = read.unwrap_or_else(|e: io::Error| {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!("{} cannot be read: {e}", path.display());
            }
            Vec::new()
        });
        Self {
            path,
            given: Mutex::new(given),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Those of `worker`, as its registration presents them.
    pub fn of(&self, worker: &str) -> Vec<GivenSession> {
        self.given()
            .iter()
            .filter(|given| given.worker == worker)
            .map(|given| GivenSession {
                coordinator_id: given.coordinator.clone().into(),
                session: given.session,
            })
            .collect()
    }

    /// Writes down what `worker` was given, before it is used.
    ///
    /// # Errors
    /// It is not on disk; this process presents it all the same.
    pub fn keep(&self, worker: &str, coordinator: &CoordinatorId, session: u64) -> io::Result<()> {
        let mut all = self.given();
        all.retain(|old| old.worker != worker || old.coordinator != *coordinator);
        all.push(Given {
            worker: worker.to_owned(),
            coordinator: coordinator.clone(),
            session,
        });
        let above = all.len().saturating_sub(KEPT);
        all.drain(..above);
        partial::write(&self.path, &serde_json::to_vec(&*all)?)
    }

    fn given(&self) -> MutexGuard<'_, Vec<Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinator(digit: &str) -> CoordinatorId {
        digit.repeat(32).try_into().expect("an id")
    }

    fn told(sessions: &Sessions, worker: &str) -> Vec<(String, u64)> {
        let told = sessions.of(worker).into_iter();
        told.map(|given| (given.coordinator_id, given.session))
            .collect()
    }

    #[test]
    fn the_last_session_of_each_coordinator_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let sessions = Sessions::open(folder.path());
        assert!(told(&sessions, "a").is_empty());
        for (worker, digit, session) in [("a", "1", 7), ("a", "2", u64::MAX), ("b", "1", 8)] {
            let kept = sessions.keep(worker, &coordinator(digit), session);
            kept.expect("room");
        }
        sessions.keep("a", &coordinator("1"), 9).expect("room");
        let again = Sessions::open(folder.path());
        let wanted = [("2".repeat(32), u64::MAX), ("1".repeat(32), 9)];
        assert_eq!(told(&again, "a"), wanted);
        assert_eq!(told(&again, "b"), [("1".repeat(32), 8)]);
        assert!(told(&again, "c").is_empty());
    }

    #[test]
    fn a_session_that_cannot_be_written_is_presented_by_this_process_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let gone = folder.path().join("gone");
        let sessions = Sessions::open(&gone);
        assert!(sessions.keep("a", &coordinator("1"), 7).is_err());
        assert_eq!(told(&sessions, "a"), [("1".repeat(32), 7)]);
        assert!(told(&Sessions::open(&gone), "a").is_empty());
    }

    #[test]
    fn what_is_damaged_is_none_and_they_do_not_grow_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "[{").expect("a file");
        let sessions = Sessions::open(folder.path());
        for i in 0..KEPT as u64 + 3 {
            let worker = format!("w{i}");
            sessions.keep(&worker, &coordinator("1"), i).expect("room");
        }
        let again = Sessions::open(folder.path());
        assert_eq!(again.given().len(), KEPT);
        assert!(told(&again, "w2").is_empty() && !told(&again, "w3").is_empty());
    }
}
