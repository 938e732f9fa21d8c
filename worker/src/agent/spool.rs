//! What would be lost if this worker were killed, written down while the coordinator is away.
//!
//! It is written beside the task that follows the training process, which is to be heard meanwhile.
//! One write follows another, so the last one stands.

use std::path::PathBuf;
use std::sync::Arc;

use qlora_proto::Outcome;
use tokio::task::JoinHandle;

use super::exit_status::ExitStatus;
use super::handover::{self, Whose};
use super::outbox::Outbox;
use super::saved::Saved;

pub(super) struct Spool {
    whose: Whose,
    outbox: Arc<Outbox>,
    folder: PathBuf,
    /// The last write, which may go on; whether it succeeded.
    writing: Option<JoinHandle<bool>>,
    /// Something may lie in the folder.
    lies: bool,
    /// What was written last: the state of the outbox, and how much was saved.
    written: Option<(u64, usize)>,
}

impl Spool {
    pub fn new(whose: Whose, outbox: Arc<Outbox>, folder: PathBuf) -> Self {
        Self {
            whose,
            outbox,
            folder,
            writing: None,
            lies: false,
            written: None,
        }
    }

    /// Begins to write where the coordinator is away and there is something new, and to take back
    /// what was written where it is there again. While a write goes on, the next look does it.
    pub async fn look(&mut self, saved: &[Saved]) {
        let is_stuck = self.outbox.is_stuck();
        self.turn(is_stuck, saved).await;
    }

    async fn turn(&mut self, is_stuck: bool, saved: &[Saved]) {
        if self.writing.as_ref().is_some_and(|w| !w.is_finished()) {
            return;
        }
        self.end().await;
        if is_stuck {
            let now = (self.outbox.changes(), saved.len());
            if self.written != Some(now) {
                (self.written, self.lies) = (Some(now), true);
                self.write(lost(), saved);
            }
        } else if self.lies {
            (self.written, self.lies) = (None, false);
            let folder = self.folder.clone();
            self.writing = Some(tokio::task::spawn_blocking(move || {
                handover::take_back(&folder);
                true
            }));
        }
    }

    /// Waits for the last write.
    async fn end(&mut self) {
        if let Some(writing) = self.writing.take() {
            let is_written = writing.await.unwrap_or(false);
            self.written = self.written.filter(|_| is_written);
        }
    }

    /// Writes down how the attempt ended and what is left to deliver. All workers of an attempt do,
    /// since one that came back without it would end it for the others.
    pub async fn close(mut self, ended: &ExitStatus, saved: &[Saved]) {
        self.end().await;
        self.write(ended.clone(), saved);
        self.end().await;
    }

    /// Where the record cannot be written, the attempt is lost with the worker as it would be
    /// without.
    fn write(&mut self, ended: ExitStatus, saved: &[Saved]) {
        let (whose, outbox) = (self.whose.clone(), self.outbox.clone());
        let (folder, saved) = (self.folder.clone(), saved.to_vec());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let written = handover::write(&whose, &ended, &saved, (&outbox, &folder));
            if let Err(e) = &written {
                tracing::warn!(
                    "what is left to deliver cannot be written down in {}: {e}",
                    folder.display()
                );
            }
            written.is_ok()
        }));
    }
}

/// How the attempt will have ended if the worker is killed now.
fn lost() -> ExitStatus {
    ExitStatus {
        resumes: true,
        ..ExitStatus::of(
            Outcome::Lost,
            "the worker ended while the coordinator was away",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use qlora_proto::LogLevel;

    use super::*;
    use crate::agent::progress::line;

    fn whose() -> Whose {
        Whose {
            coordinator: "0".repeat(32).try_into().expect("an id"),
            worker: "a".into(),
            job: 1,
            token: 7,
        }
    }

    #[tokio::test]
    async fn what_is_new_is_written_while_the_coordinator_is_away_and_taken_back_after() {
        let home = tempfile::tempdir().expect("a folder");
        let record = home.path().join("handover.json");
        let outbox: Arc<Outbox> = Arc::default();
        let mut spool = Spool::new(whose(), outbox.clone(), home.path().into());
        for (is_stuck, is_new, is_there) in [
            (false, true, false),
            (true, false, true),
            // Nothing has changed since, so nothing is written in the place of what went.
            (true, false, false),
            (true, true, true),
            (false, false, false),
            (true, false, true),
        ] {
            if is_new {
                outbox.log(line(LogLevel::Info, "news".into()));
            }
            spool.turn(is_stuck, &[]).await;
            spool.end().await;
            assert_eq!(record.exists(), is_there, "{is_stuck} {is_new}");
            drop(fs::remove_file(&record));
        }
        let ended = ExitStatus::of(Outcome::Succeeded, "");
        spool.close(&ended, &[]).await;
        assert!(record.exists());
    }

    #[tokio::test]
    async fn a_write_that_failed_is_tried_again() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("gone");
        let mut spool = Spool::new(whose(), Arc::default(), folder.clone());
        spool.turn(true, &[]).await;
        spool.end().await;
        fs::create_dir(&folder).expect("a folder");
        spool.turn(true, &[]).await;
        spool.end().await;
        assert!(folder.join("handover.json").exists());
    }
}
