//! A copy of a state folder that is one itself, also of one that is being served.
//!
//! The database is copied first and artifacts after it, so that the copy has all that its jobs need:
//! artifacts do not change under their name. One that is deleted between the two is missing. The copy
//! of the database gets its name last. Artifacts that the copy has already are not copied again, and
//! none is removed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use qlora_proto::words::{bytes, count};
use qlora_store::{ArtifactPlace, SqliteStore};

use crate::error::StartError;

/// The database, and the log that SQLite keeps beside one that is open.
const DATABASE: &str = "qlora.db";
const PARTIAL: &str = "qlora.db.partial";
const LOG: &str = "qlora.db-wal";
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
    check_owner(state, to).await?;
    let partial = to.join(PARTIAL);
    // It stands there before anything else is copied, and until all is.
    removed(&partial).map_err(fault)?;
    SqliteStore::back_up(state, &partial).await?;
    fs::set_permissions(&partial, Permissions::from_mode(0o600)).map_err(fault)?;
    let mut copied = Copied {
        state: state.into(),
        to: to.into(),
        new: Tally::default(),
        old: Tally::default(),
    };
    // The database of an earlier backup stays until all is there that the new one needs.
    copied
        .copy_others()
        .and_then(|()| copied.copy_artifacts())
        .and_then(|()| publish(&partial, &to.join(DATABASE)))
        .map_err(fault)?;
    Ok(copied)
}

/// Another coordinator's folder is not written over, nor one that was served.
async fn check_owner(state: &Path, to: &Path) -> Result<(), StartError> {
    let refused = |why: &str| {
        Err(StartError::Backup {
            path: to.into(),
            source: io::Error::other(why.to_owned()),
        })
    };
    match SqliteStore::id_of(to).await? {
        None if !is_begun(to)? => return refused("it holds other files; name an empty folder"),
        Some(id) if SqliteStore::id_of(state).await? != Some(id.clone()) => {
            return refused("it is the state folder or the backup of another coordinator");
        }
        _ => {}
    }
    if to.join(LOG).metadata().is_ok_and(|log| log.len() > 0) {
        return refused("a coordinator has served it and has not ended in order");
    }
    Ok(())
}

/// Makes the folder `to`, and holds its lock: nobody may serve it meanwhile.
fn prepare(state: &Path, to: &Path) -> Result<File, StartError> {
    let fault = |source| StartError::Backup {
        path: to.into(),
        source,
    };
    let own = "it is the state folder itself or lies in it; name another folder";
    let lies_in = |inner: io::Result<PathBuf>, outer: io::Result<PathBuf>| match (inner, outer) {
        (Ok(inner), Ok(outer)) if inner.starts_with(&outer) => Err(fault(io::Error::other(own))),
        _ => Ok(()),
    };
    // By its name before it is made, and by where it is after that.
    lies_in(path::absolute(to), path::absolute(state))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .map_err(fault)?;
    lies_in(fs::canonicalize(to), fs::canonicalize(state))?;
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

/// Whether the folder is empty, but for its lock, or has what a backup that was cut off has left.
fn is_begun(to: &Path) -> Result<bool, StartError> {
    let fault = |source| StartError::Backup {
        path: to.into(),
        source,
    };
    let mut is_empty = true;
    for entry in fs::read_dir(to).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        if name == PARTIAL {
            return Ok(true);
        }
        is_empty &= name == "lock";
    }
    Ok(is_empty)
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
        let (artifacts, option) = match place {
            Some(place) => (
                format!("Artifacts are not in it: copy {place} after this."),
                format!(" --artifacts {place}"),
            ),
            None => (
                format!("{} copied, {} were there.", of(&self.new), of(&self.old)),
                String::new(),
            ),
        };
        format!(
            "{to} is a copy of {}. {artifacts}\nRestore: qlora-coordinator --state-dir FOLDER{option}, where FOLDER is a copy of {to}\n",
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
