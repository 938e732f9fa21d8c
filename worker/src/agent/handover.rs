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
use super::upload::Saved;

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
    let record = Record { worker: worker.into(), token, outcome, message, saved: saved.to_vec() };
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

fn read(folder: &Path) -> Option<Handover> {
    let text = fs::read_to_string(folder.join(RECORD)).ok()?;
    let Record { worker, token, outcome, message, saved } = serde_json::from_str(&text).ok()?;
    let ended = ExitStatus { outcome: Outcome::try_from(outcome).ok()?, message };
    let reports = Outbox::restored(&folder.join(REPORTS)).ok()?;
    // What was delivered is gone.
    let saved = saved.into_iter().filter(|saved| saved.folder.is_dir()).collect();
    Some(Handover { worker, token, ended, saved, reports, folder: folder.into() })
}

/// The attempts of the workers `names` that are to be delivered; what else was left of attempts in `state` goes, since
/// nobody goes on with it and checkpoints are large.
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
        let one_of = |left: &Handover| names.contains(&left.worker) && found.iter().all(|f| f.worker != left.worker);
        match read(&folder).filter(one_of) {
            Some(left) => found.push(left),
            None => forget(&folder),
        }
    }
    found
}

fn forget(folder: &Path) {
    if let Err(e) = fs::remove_dir_all(folder) {
        tracing::warn!("{} cannot be removed: {e}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::upload::Kind;

    #[test]
    fn what_is_to_be_delivered_is_found_again_and_all_else_goes() {
        let state = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = state.path().join("jobs").join(name);
            fs::create_dir_all(folder.join("step-4")).expect("a folder");
            folder
        };
        let ended = ExitStatus { outcome: Outcome::Stopped, message: "why".into() };
        let (ours, theirs, torn, none) = (folder("1-7"), folder("2-8"), folder("3-9"), folder("4-10"));
        let saved = |step, folder: PathBuf| Saved { kind: Kind::Checkpoint, step, folder };
        let all = [saved(4, ours.join("step-4")), saved(2, ours.join("delivered-and-gone"))];
        let reports = Outbox::default();
        write(("a", 7), &ended, &all, (&reports, &ours)).expect("a record");
        write(("another", 8), &ended, &[], (&reports, &theirs)).expect("a record");
        fs::write(torn.join(RECORD), "{\"worker\": \"a\"").expect("a file");
        let found = left_over(state.path(), &["a".into(), "b".into()]);
        let [left] = &found[..] else { panic!("{found:?}") };
        assert_eq!((left.worker.as_str(), left.token, left.folder.as_path()), ("a", 7, ours.as_path()));
        assert_eq!(left.saved.iter().map(|saved| saved.step).collect::<Vec<_>>(), [4]);
        assert_eq!((left.ended.outcome, left.ended.message.as_str()), (Outcome::Stopped, "why"));
        assert!(ours.exists() && !theirs.exists() && !torn.exists() && !none.exists());
    }
}
