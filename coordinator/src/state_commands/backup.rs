//! A copy of a state folder that is one itself, also of one that is being served.
//!
//! The database is copied first and artifacts after it, so that the copy has all that its jobs need:
//! artifacts do not change under their name. One that is deleted between the two is missing.
//! Artifacts that the copy has already are not copied again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use qlora_proto::words::{bytes, count};
use qlora_store::{ArtifactPlace, SqliteStore};

use crate::error::StartError;

/// The database, and what SQLite keeps beside one that is open.
const DATABASE: &str = "qlora.db";
const BESIDE: [&str; 2] = ["qlora.db-wal", "qlora.db-shm"];
/// The folder of artifacts within a state folder.
const ARTIFACTS: &str = "artifacts";
/// What else makes a state folder: the first token, and the files of TLS.
const OTHERS: [&str; 2] = ["token", "tls"];

/// What was copied.
pub(super) struct Copied {
    state: PathBuf,
    to: PathBuf,
    new: Tally,
    /// Artifacts that the copy had.
    old: Tally,
}

#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
}

pub(super) async fn run(state: &Path, to: &Path) -> Result<Copied, StartError> {
    let fault = |source| StartError::Backup {
        path: to.into(),
        source,
    };
    let _lock = prepare(state, to)?;
    let partial = to.join("qlora.db.partial");
    removed(&partial).map_err(fault)?;
    SqliteStore::back_up(state, &partial).await?;
    let mut copied = Copied {
        state: state.into(),
        to: to.into(),
        new: Tally::default(),
        old: Tally::default(),
    };
    // The newest transactions of an older copy that was served are not of this one.
    BESIDE
        .iter()
        .try_for_each(|name| removed(&to.join(name)))
        .and_then(|()| publish(&partial, &to.join(DATABASE)))
        .and_then(|()| copied.copy_others())
        .and_then(|()| copied.copy_artifacts())
        .map_err(fault)?;
    Ok(copied)
}

/// Makes the folder `to`, and holds its lock: nobody may serve it meanwhile.
fn prepare(state: &Path, to: &Path) -> Result<File, StartError> {
    let fault = |source| StartError::Backup {
        path: to.into(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .map_err(fault)?;
    if fs::canonicalize(to).map_err(fault)? == fs::canonicalize(state).unwrap_or_default() {
        let same = "it is the state folder itself; name another folder";
        return Err(fault(io::Error::other(same)));
    }
    let lock = File::create(to.join("lock")).map_err(fault)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            let served = "a coordinator or another backup uses it";
            Err(fault(io::Error::new(ErrorKind::ResourceBusy, served)))
        }
        Err(fs::TryLockError::Error(source)) => Err(fault(source)),
    }
}

impl Copied {
    fn copy_others(&mut self) -> io::Result<()> {
        for name in OTHERS {
            let from = self.state.join(name);
            if from.is_dir() {
                let mut files = Tally::default();
                copy_folder(&from, &self.to.join(name), &mut |from, to| {
                    files.files += 1;
                    copy(from, to).map(drop)
                })?;
            } else if from.exists() {
                copy(&from, &self.to.join(name))?;
            }
        }
        Ok(())
    }

    fn copy_artifacts(&mut self) -> io::Result<()> {
        let from = self.state.join(ARTIFACTS);
        if !from.is_dir() {
            return Ok(());
        }
        let to = self.to.join(ARTIFACTS);
        copy_folder(&from.join("sha256"), &to.join("sha256"), &mut |from, to| {
            let size = from.metadata()?.len();
            let is_there = to.metadata().is_ok_and(|there| there.len() == size);
            let tally = if is_there {
                &mut self.old
            } else {
                &mut self.new
            };
            tally.files += 1;
            tally.bytes += size;
            if is_there { Ok(()) } else { copy(from, to) }
        })?;
        // The mark of whose they are; without one, the coordinator that opens them makes it.
        let mark = from.join("qlora-owner");
        match mark.exists() {
            true => copy(&mark, &to.join("qlora-owner")),
            false => Ok(()),
        }
    }

    pub fn told(&self, place: Option<&ArtifactPlace>) -> String {
        let to = self.to.display();
        let of = |tally: &Tally| {
            format!(
                "{} ({})",
                count(tally.files, "artifact"),
                bytes(tally.bytes)
            )
        };
        let artifacts = match place {
            Some(place) => format!("Artifacts are not in it: copy {place} after this."),
            None => format!("{} copied, {} were there.", of(&self.new), of(&self.old)),
        };
        format!(
            "{to} is a copy of {}. {artifacts}\nRestore: qlora-coordinator --state-dir {to}\n",
            self.state.display()
        )
    }
}

/// Copies the files of the folder `from` and of those in it. What goes meanwhile is left out.
fn copy_folder(
    from: &Path,
    to: &Path,
    one: &mut impl FnMut(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, out) = (entry.path(), to.join(entry.file_name()));
        let copied = if entry.file_type()?.is_dir() {
            copy_folder(&path, &out, one)
        } else {
            one(&path, &out)
        };
        match copied {
            Err(e) if e.kind() == ErrorKind::NotFound && !path.exists() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Gives `to` the bytes and the mode of `from` once they are durable.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    removed(&partial)?;
    fs::copy(from, &partial)?;
    publish(&partial, to)
}

fn publish(partial: &Path, to: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    fs::rename(partial, to)?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
