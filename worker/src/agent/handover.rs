//! What an attempt leaves on disk when its worker ends before its coordinator has all of it.
//!
//! When the training process has ended, a file beside what it saved says how it ended and what that
//! is. While the coordinator is away the file is written earlier, and says that the worker was lost:
//! that is what the attempt comes to if the worker is killed then. A worker that is stopped or
//! killed before it has delivered everything delivers it after its next start, if the attempt is
//! still its own: its lease holds, or the coordinator was away as well. The same applies when
//! another coordinator has taken the place of the attempt's own: the rest is kept until the
//! attempt's own coordinator answers again.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use qlora_proto::{HeldAttempt, Outcome};
use qlora_trainer::partial;
use serde::{Deserialize, Serialize};

use super::coordinator_id::CoordinatorId;
use super::exit_status::ExitStatus;
use super::outbox::Outbox;
use super::saved::{Kind, Saved};

const RECORD: &str = "handover.json";
/// Reports that the coordinator has not taken.
const REPORTS: &str = "reports";

/// What is left to deliver of an attempt that this worker no longer runs.
#[derive(Debug)]
pub struct Handover {
    pub whose: Whose,
    pub ended: ExitStatus,
    pub saved: Vec<Saved>,
    pub reports: Outbox,
    /// Where all of it lies.
    pub folder: PathBuf,
}

/// Whose attempt it is: coordinators count alike, and several workers may share a state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    pub coordinator: CoordinatorId,
    pub worker: String,
    pub job: u64,
    pub token: u64,
}

impl Whose {
    pub fn held(&self) -> HeldAttempt {
        HeldAttempt {
            coordinator_id: self.coordinator.clone().into(),
            token: self.token,
        }
    }
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    whose: Whose,
    /// The number of the outcome on the wire.
    outcome: i32,
    message: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    resumes: bool,
    saved: Vec<Saved>,
}

/// Writes down what the attempt leaves in its folder, all of it or nothing.
pub fn write(
    whose: &Whose,
    ended: &ExitStatus,
    saved: &[Saved],
    (outbox, folder): (&Outbox, &Path),
) -> io::Result<()> {
    // An attempt that is told to have succeeded has all its reports.
    keep_reports(outbox, folder)?;
    let ExitStatus {
        outcome,
        message,
        code,
        resumes,
    } = ended.clone();
    let within = |saved: &Saved| {
        saved
            .folder
            .strip_prefix(folder)
            .unwrap_or(&saved.folder)
            .to_owned()
    };
    let saved = saved
        .iter()
        .map(|saved| Saved {
            folder: within(saved),
            ..saved.clone()
        })
        .collect();
    let record = Record {
        whose: whose.clone(),
        outcome: outcome.into(),
        message,
        code,
        resumes,
        saved,
    };
    partial::write(&folder.join(RECORD), &serde_json::to_vec(&record)?)
}

/// Keeps the reports of the attempt in `folder` that are not delivered.
pub fn keep_reports(outbox: &Outbox, folder: &Path) -> io::Result<()> {
    partial::write_with(&folder.join(REPORTS), |partial| outbox.keep(partial))
}

/// Takes back what [`write`] wrote of an attempt that goes on: its coordinator hears of it again.
pub fn take_back(folder: &Path) {
    for name in [RECORD, REPORTS] {
        let path = folder.join(name);
        told(&path, fs::remove_file(&path));
    }
}

/// Tells in the log of what was to be removed and is still there.
fn told(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            tracing::warn!("{} cannot be removed: {e}", path.display());
        }
        _ => {}
    }
}

/// Why what lies in a folder cannot be delivered.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("nothing is left to deliver")]
    Nothing,
    #[error("{0}")]
    Damaged(String),
}

/// # Errors
/// No record was written before the worker ended, or what it left is not whole.
fn read(folder: &Path) -> Result<Handover, Unusable> {
    let damaged = |fault: String| Unusable::Damaged(fault);
    let text = match fs::read_to_string(folder.join(RECORD)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(Unusable::Nothing),
        text => text.map_err(|e| damaged(format!("{RECORD}: {e}")))?,
    };
    let record: Record =
        serde_json::from_str(&text).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    let outcome =
        Outcome::try_from(record.outcome).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    let mut saved = Vec::new();
    for mut one in record.saved {
        // The folder may have been called by another path then.
        one.folder = folder.join(&one.folder);
        match (one.folder.is_dir(), one.delivered().is_dir()) {
            (_, true) => {}
            (true, false) => saved.push(one),
            // An attempt that was stopped has ended so all the same; one that has succeeded has
            // made an adapter.
            (false, false) if one.kind == Kind::Checkpoint => {
                tracing::warn!(
                    "{} is not there, and is not delivered",
                    one.folder.display()
                );
            }
            (false, false) => {
                return Err(damaged(format!("{} is not there", one.folder.display())));
            }
        }
    }
    let reports = Outbox::restored(&folder.join(REPORTS)).or_else(|e| {
        tracing::warn!(
            "the reports in {} are damaged and are left out: {e}",
            folder.display()
        );
        // Scores are reports: without them an evaluation has made nothing.
        let has_adapter = saved.iter().any(|saved| saved.kind == Kind::Adapter);
        if outcome == Outcome::Succeeded && !has_adapter {
            return Err(damaged(format!("{REPORTS}: {e}")));
        }
        Ok(Outbox::after_unknown())
    })?;
    let ended = ExitStatus {
        outcome,
        message: record.message,
        code: record.code,
        resumes: record.resumes,
    };
    Ok(Handover {
        whose: record.whose,
        ended,
        saved,
        reports,
        folder: folder.into(),
    })
}

/// What lies in `folder`, where it can be delivered. What is damaged stays and is logged. A folder
/// without a record is removed: its worker ended in mid-training, nobody resumes from it, and
/// checkpoints are large.
pub fn find(folder: &Path) -> Option<Handover> {
    match read(folder) {
        Ok(left) => Some(left),
        Err(Unusable::Nothing) => {
            forget(folder);
            None
        }
        Err(Unusable::Damaged(fault)) => {
            tracing::warn!(
                "{} cannot be delivered and is left as it is: {fault}",
                folder.display()
            );
            None
        }
    }
}

/// The attempts of the workers `names` that are to be delivered, each to its own coordinator. What
/// other workers left stays and is told of.
pub fn left_over(state: &Path, names: &[String]) -> Vec<Handover> {
    let jobs = state.join("jobs");
    let folders = match fs::read_dir(&jobs) {
        Ok(folders) => folders
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            tracing::warn!("{} cannot be read: {e}", jobs.display());
            Vec::new()
        }
    };
    let mut found: Vec<Handover> = Vec::new();
    for left in folders.iter().filter_map(|folder: &PathBuf| find(folder)) {
        if names.contains(&left.whose.worker) {
            found.push(left);
        } else {
            tracing::warn!(
                "{} is left for the worker {}, which saved it",
                left.folder.display(),
                left.whose.worker
            );
        }
    }
    found
}

/// Removes what nobody will ask for.
pub fn forget(folder: &Path) {
    told(folder, fs::remove_dir_all(folder));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::kept::Kept;

    fn coordinator(digit: &str) -> CoordinatorId {
        digit.repeat(32).try_into().expect("an id")
    }

    fn whose(coordinator_digit: &str, worker: &str, job: u64, token: u64) -> Whose {
        Whose {
            coordinator: coordinator(coordinator_digit),
            worker: worker.into(),
            job,
            token,
        }
    }

    fn stopped() -> ExitStatus {
        ExitStatus {
            resumes: true,
            ..ExitStatus::of(Outcome::Stopped, "why").with_code(qlora_codes::Code::JobFailed)
        }
    }

    #[test]
    fn what_is_to_be_delivered_is_found_again_and_all_else_goes() {
        let state = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = state.path().join("jobs").join(name);
            fs::create_dir_all(folder.join("step-4")).expect("a folder");
            folder
        };
        let ended = stopped();
        let (ours, older, theirs, torn, none, old_form) = (
            folder("1-7"),
            folder("1-6"),
            folder("2-8"),
            folder("3-9"),
            folder("4-10"),
            folder("5-11"),
        );
        let saved = |step, folder: PathBuf| Saved {
            kind: Kind::Checkpoint,
            step,
            folder,
        };
        let delivered = saved(2, ours.join("step-2"));
        fs::create_dir(delivered.delivered()).expect("a folder");
        // What is half removed does not stand under its own name.
        let all = [
            saved(4, ours.join("step-4")),
            delivered,
            saved(1, ours.join("step-1")),
        ];
        let reports = Outbox::default();
        write(&whose("a", "a", 1, 7), &ended, &all, (&reports, &ours)).expect("a record");
        write(&whose("a", "a", 1, 6), &ended, &[], (&reports, &older)).expect("a record");
        write(
            &whose("a", "another", 2, 8),
            &ended,
            &[],
            (&reports, &theirs),
        )
        .expect("a record");
        let gone = Saved {
            kind: Kind::Adapter,
            step: 1,
            folder: torn.join("gone"),
        };
        write(&whose("a", "a", 3, 9), &ended, &[gone], (&reports, &torn)).expect("a record");
        // A record that does not say which coordinator's it is can be handed in to nobody, and is
        // not thrown away.
        fs::write(
            old_form.join(RECORD),
            r#"{"worker":"a","token":11,"outcome":5,"message":"","saved":[]}"#,
        )
        .expect("a file");
        // The state folder is the same under another path.
        let moved = state
            .path()
            .join("jobs/../../")
            .join(state.path().file_name().expect("a name"));
        let found = left_over(&moved, &["a".into(), "b".into()]);
        let left = Kept::new(found)
            .take(&coordinator("a"))
            .expect("what is left");
        assert_eq!(left.whose, whose("a", "a", 1, 7));
        assert_eq!(
            left.saved
                .iter()
                .map(|saved| saved.step)
                .collect::<Vec<_>>(),
            [4]
        );
        assert!(left.saved[0].folder.is_dir());
        assert_eq!(
            (left.ended.outcome, left.ended.message.as_str()),
            (Outcome::Stopped, "why")
        );
        assert!(left.ended.code == "Q0501" && left.ended.resumes);
        assert!(
            ours.exists() && !older.exists() && theirs.exists() && torn.exists() && !none.exists()
        );
        assert!(old_form.exists());
    }

    #[test]
    fn what_coordinators_that_count_alike_were_left_is_kept_apart_and_given_to_its_own_only() {
        let state = tempfile::tempdir().expect("a folder");
        let leave = |of: &Whose| {
            let folder = state
                .path()
                .join("jobs")
                .join(format!("{}-{}-{}", of.coordinator, of.job, of.token));
            fs::create_dir_all(&folder).expect("a folder");
            write(of, &stopped(), &[], (&Outbox::default(), &folder)).expect("a record");
            folder
        };
        // The same job and the same token of two coordinators, and a later attempt of one of them.
        let (one, other, later) = (
            whose("1", "a", 1, 7),
            whose("2", "a", 1, 7),
            whose("2", "a", 4, 9),
        );
        let folders = [&one, &other, &later].map(leave);
        let mut kept = Kept::new(left_over(state.path(), &["a".into()]));
        assert_eq!(
            folders.each_ref().map(|folder| folder.exists()),
            [true, false, true]
        );
        let mut held: Vec<(String, u64)> = kept
            .held()
            .map(|held| (held.coordinator_id, held.token))
            .collect();
        held.sort();
        assert_eq!(held, [("1".repeat(32), 7), ("2".repeat(32), 9)]);
        assert!(kept.take(&coordinator("3")).is_none());
        assert_eq!(
            kept.take(&coordinator("2")).map(|left| left.whose),
            Some(later.clone())
        );
        assert!(kept.take(&coordinator("2")).is_none());
        // What an attempt leaves that is older than what is kept goes, and a newer one takes its
        // place.
        let newer = whose("1", "a", 2, 8);
        for (of, wanted) in [(&newer, &newer), (&one, &newer)] {
            kept.add(find(&leave(of)).expect("what is left"));
            assert_eq!(
                kept.held().map(|held| held.token).collect::<Vec<_>>(),
                [wanted.token]
            );
        }
        assert!(!folders[0].exists() && !kept.is_empty());
    }

    #[test]
    fn what_is_taken_back_is_not_delivered() {
        let state = tempfile::tempdir().expect("a folder");
        let folder = state.path().join("jobs/1-7");
        fs::create_dir_all(&folder).expect("a folder");
        let (of, reports) = (whose("1", "a", 1, 7), Outbox::default());
        for _ in 0..2 {
            write(&of, &stopped(), &[], (&reports, &folder)).expect("a record");
            assert!(find(&folder).is_some());
        }
        take_back(&folder);
        assert!(folder.is_dir() && find(&folder).is_none());
    }

    #[test]
    fn damaged_reports_cost_reports_but_no_adapter_and_an_evaluation_is_not_told_to_have_succeeded()
    {
        let state = tempfile::tempdir().expect("a folder");
        let folder = state.path().join("jobs/1-7");
        fs::create_dir_all(folder.join("adapter")).expect("a folder");
        let ended = ExitStatus::succeeded();
        let adapter = Saved {
            kind: Kind::Adapter,
            step: 4,
            folder: folder.join("adapter"),
        };
        for (saved, is_delivered) in [(vec![adapter], true), (Vec::new(), false)] {
            write(
                &whose("a", "a", 1, 7),
                &ended,
                &saved,
                (&Outbox::default(), &folder),
            )
            .expect("a record");
            fs::write(folder.join(REPORTS), [9, 9]).expect("a file");
            assert_eq!(
                left_over(state.path(), &["a".into()]).len(),
                usize::from(is_delivered)
            );
            assert!(folder.exists());
        }
    }
}
