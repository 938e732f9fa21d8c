//! What an attempt leaves on disk when its worker ends before the coordinator has all of it.
//!
//! Once the training process has ended, how it ended and what it saved is written down beside that. A worker that is
//! stopped or killed before everything is delivered delivers it when it is started again, if the attempt is its own
//! then: its lease holds, or the coordinator was away as well.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use qlora_proto::Outcome;
use serde::{Deserialize, Serialize};

use super::outbox::Outbox;
use super::process::ExitStatus;
use super::saved::{Kind, Saved};

const RECORD: &str = "handover.json";
/// Reports that the coordinator has not taken.
const REPORTS: &str = "reports";

/// An attempt whose training process has ended, to be delivered.
#[derive(Debug)]
pub struct Handover {
    /// The name of the worker whose attempt it is: several may share a state folder.
    pub worker: String,
    pub token: u64,
    pub ended: ExitStatus,
    pub saved: Vec<Saved>,
    pub reports: Outbox,
    /// Where all of it lies.
    pub folder: PathBuf,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    worker: String,
    token: u64,
    /// The number of the outcome on the wire.
    outcome: i32,
    message: String,
    saved: Vec<Saved>,
}

/// Writes down what the attempt `token` of `worker` leaves in its folder, all of it or nothing.
pub fn write(
    (worker, token): (&str, u64),
    ended: &ExitStatus,
    saved: &[Saved],
    (outbox, folder): (&Outbox, &Path),
) -> io::Result<()> {
    // An attempt that is told to have succeeded has all its reports.
    keep_reports(outbox, folder)?;
    let (outcome, message) = (ended.outcome.into(), ended.message.clone());
    let within = |saved: &Saved| saved.folder.strip_prefix(folder).unwrap_or(&saved.folder).to_owned();
    let saved = saved.iter().map(|saved| Saved { folder: within(saved), ..saved.clone() }).collect();
    let record = Record { worker: worker.into(), token, outcome, message, saved };
    let partial = folder.join("handover.partial");
    let mut file = File::create(&partial)?;
    serde_json::to_writer(&mut file, &record)?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&partial, folder.join(RECORD))
}

/// Keeps the reports of the attempt in `folder` that are not delivered.
pub fn keep_reports(outbox: &Outbox, folder: &Path) -> io::Result<()> {
    let partial = folder.join("reports.partial");
    outbox.keep(&partial)?;
    fs::rename(&partial, folder.join(REPORTS))
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
/// The worker ended before its training process had, or what it left is not whole.
fn read(folder: &Path) -> Result<Handover, Unusable> {
    let damaged = |fault: String| Unusable::Damaged(fault);
    let text = match fs::read_to_string(folder.join(RECORD)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(Unusable::Nothing),
        text => text.map_err(|e| damaged(format!("{RECORD}: {e}")))?,
    };
    let record: Record = serde_json::from_str(&text).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    let outcome = Outcome::try_from(record.outcome).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    let mut saved = Vec::new();
    for mut one in record.saved {
        // The folder may have been called by another path then.
        one.folder = folder.join(&one.folder);
        match (one.folder.is_dir(), one.delivered().is_dir()) {
            (_, true) => {}
            (true, false) => saved.push(one),
            // An attempt that was stopped has ended so all the same; one that has succeeded has made an adapter.
            (false, false) if one.kind == Kind::Checkpoint => {
                tracing::warn!("{} is not there, and is not delivered", one.folder.display());
            }
            (false, false) => return Err(damaged(format!("{} is not there", one.folder.display()))),
        }
    }
    let reports = Outbox::restored(&folder.join(REPORTS)).or_else(|e| {
        tracing::warn!("the reports in {} are damaged and are left out: {e}", folder.display());
        // Scores are reports: without them an evaluation has made nothing.
        let has_adapter = saved.iter().any(|saved| saved.kind == Kind::Adapter);
        if outcome == Outcome::Succeeded && !has_adapter {
            return Err(damaged(format!("{REPORTS}: {e}")));
        }
        Ok(Outbox::after_unknown())
    })?;
    let ended = ExitStatus { outcome, message: record.message };
    Ok(Handover { worker: record.worker, token: record.token, ended, saved, reports, folder: folder.into() })
}

/// The attempts of the workers `names` that are to be delivered. What was left by a worker that ended in mid-training
/// goes: nobody goes on with it, and checkpoints are large. What other workers left, or what is damaged, stays and is
/// told of.
pub fn left_over(state: &Path, names: &[String]) -> Vec<Handover> {
    let jobs = state.join("jobs");
    let folders = match fs::read_dir(&jobs) {
        Ok(folders) => folders.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            tracing::warn!("{} cannot be read: {e}", jobs.display());
            Vec::new()
        }
    };
    let mut found: Vec<Handover> = Vec::new();
    for folder in folders {
        match read(&folder) {
            Err(Unusable::Nothing) => forget(&folder),
            Err(Unusable::Damaged(fault)) => {
                tracing::warn!("{} cannot be delivered and is left as it is: {fault}", folder.display());
            }
            Ok(left) if !names.contains(&left.worker) => {
                tracing::warn!("{} is left for the worker {}, which saved it", folder.display(), left.worker);
            }
            Ok(left) => found.push(left),
        }
    }
    newest_of_each(found)
}

/// A worker holds one attempt, the one that was given last; what it left of earlier ones is of no use any more.
fn newest_of_each(mut found: Vec<Handover>) -> Vec<Handover> {
    found.sort_by_key(|left| std::cmp::Reverse(left.token));
    let mut newest: Vec<Handover> = Vec::new();
    for left in found {
        if newest.iter().any(|newer| newer.worker == left.worker) {
            forget(&left.folder);
        } else {
            newest.push(left);
        }
    }
    newest
}

fn forget(folder: &Path) {
    if let Err(e) = fs::remove_dir_all(folder) {
        tracing::warn!("{} cannot be removed: {e}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_delivered_is_found_again_and_all_else_goes() {
        let state = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = state.path().join("jobs").join(name);
            fs::create_dir_all(folder.join("step-4")).expect("a folder");
            folder
        };
        let ended = ExitStatus { outcome: Outcome::Stopped, message: "why".into() };
        let (ours, older, theirs, torn, none) =
            (folder("1-7"), folder("1-6"), folder("2-8"), folder("3-9"), folder("4-10"));
        let saved = |step, folder: PathBuf| Saved { kind: Kind::Checkpoint, step, folder };
        let delivered = saved(2, ours.join("step-2"));
        fs::create_dir(delivered.delivered()).expect("a folder");
        // What is half removed does not stand under its own name.
        let all = [saved(4, ours.join("step-4")), delivered, saved(1, ours.join("step-1"))];
        let reports = Outbox::default();
        write(("a", 7), &ended, &all, (&reports, &ours)).expect("a record");
        write(("a", 6), &ended, &[], (&reports, &older)).expect("a record");
        write(("another", 8), &ended, &[], (&reports, &theirs)).expect("a record");
        let gone = Saved { kind: Kind::Adapter, step: 1, folder: torn.join("gone") };
        write(("a", 9), &ended, &[gone], (&reports, &torn)).expect("a record");
        // The state folder is the same under another path.
        let moved = state.path().join("jobs/../../").join(state.path().file_name().expect("a name"));
        let found = left_over(&moved, &["a".into(), "b".into()]);
        let [left] = &found[..] else { panic!("{found:?}") };
        assert_eq!((left.worker.as_str(), left.token), ("a", 7));
        assert_eq!(left.saved.iter().map(|saved| saved.step).collect::<Vec<_>>(), [4]);
        assert!(left.saved[0].folder.is_dir());
        assert_eq!((left.ended.outcome, left.ended.message.as_str()), (Outcome::Stopped, "why"));
        assert!(ours.exists() && !older.exists() && theirs.exists() && torn.exists() && !none.exists());
    }

    #[test]
    fn damaged_reports_cost_reports_but_no_adapter_and_an_evaluation_is_not_told_to_have_succeeded() {
        let state = tempfile::tempdir().expect("a folder");
        let folder = state.path().join("jobs/1-7");
        fs::create_dir_all(folder.join("adapter")).expect("a folder");
        let ended = ExitStatus { outcome: Outcome::Succeeded, message: String::new() };
        let adapter = Saved { kind: Kind::Adapter, step: 4, folder: folder.join("adapter") };
        for (saved, is_delivered) in [(vec![adapter], true), (Vec::new(), false)] {
            write(("a", 7), &ended, &saved, (&Outbox::default(), &folder)).expect("a record");
            fs::write(folder.join(REPORTS), [9, 9]).expect("a file");
            assert_eq!(left_over(state.path(), &["a".into()]).len(), usize::from(is_delivered));
            assert!(folder.exists());
        }
    }
}
