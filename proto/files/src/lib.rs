//! Files and folders that get their final name only when they are complete.
//!
//! Until then they have a temporary name beside it, and the process that writes them holds a lock
//! on them. An error removes them at once. The next process that writes the same name removes what
//! a killed process left, since the lock is free then. A lock says nothing about other machines
//! that share the disk, so only files that were begun since this machine last started are removed;
//! the others are named.

mod claim;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use self::claim::{Claim, Kind};

/// What is being written for a name.
#[derive(Debug)]
pub struct Partial {
    out: PathBuf,
    claim: Claim,
}

/// What was begun for a name and not completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Left by processes that are gone, and removed.
    pub removed: Vec<PathBuf>,
    /// At work, or of another machine or version of this program.
    pub kept: Vec<PathBuf>,
}

impl Partial {
    /// An empty file.
    pub fn file(out: &Path) -> io::Result<Self> {
        Self::begin(out, Kind::File)
    }

    /// An empty folder; those above it are made.
    pub fn folder(out: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder_of(out))?;
        Self::begin(out, Kind::Folder)
    }

    fn begin(out: &Path, kind: Kind) -> io::Result<Self> {
        replaceable(out)?;
        sweep(out);
        Ok(Self {
            out: out.into(),
            claim: Claim::new(out, kind)?,
        })
    }

    /// Where it stands meanwhile.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    /// Makes what is written durable, with all files of a folder.
    pub fn sync(&self) -> io::Result<()> {
        sync(self.path())
    }

    /// Makes what is complete durable and gives it its name, unless something has it already.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or the system refuses.
    pub fn publish(self) -> io::Result<()> {
        // A name may outlive a power loss that content which is only in memory does not.
        self.sync()?;
        let (from, out) = (self.claim.path(), &self.out);
        match renameat_with(CWD, from, CWD, out, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(ErrorKind::AlreadyExists.into()),
            // Some file systems cannot look and rename in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !out.exists() => {
                fs::rename(from, out)?
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                return Err(ErrorKind::AlreadyExists.into());
            }
            Err(e) => return Err(e.into()),
        }
        self.named()
    }

    /// Makes what is complete durable and gives it its name, in place of what had it. A folder
    /// cannot be replaced in one step: the one that had the name goes first.
    pub fn replace(self) -> io::Result<()> {
        self.sync()?;
        if self.path().is_dir() {
            remove_folder(&self.out)?;
        }
        fs::rename(self.claim.path(), &self.out)?;
        self.named()
    }

    fn named(mut self) -> io::Result<()> {
        self.claim.keep();
        sync_folder_of(&self.out)
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

/// Gives the complete file or folder `from` the name `to`, in place of a file that had it; both lie
/// in one folder. For what is written over several starts of a program under a name that it knows
/// again, such as a download; [`Partial`] is for everything else.
pub fn place(from: &Path, to: &Path) -> io::Result<()> {
    replaceable(to)?;
    // A name may outlive a power loss that content which is only in memory does not.
    sync(from)?;
    fs::rename(from, to)?;
    sync_folder_of(to)
}

/// A file that gets the name of a device takes its place: as root, `/dev/null` would be gone for
/// every program of the machine.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where `out` is, or leads to, what is neither a file nor a folder.
fn replaceable(out: &Path) -> io::Result<()> {
    match fs::metadata(out) {
        Ok(there) if !(there.is_file() || there.is_dir()) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is a device, a pipe or a socket, and not a file that can be replaced",
        )),
        _ => Ok(()),
    }
}

/// A file, or a folder after all that lies in it.
fn sync(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    fs::File::open(path)?.sync_all()
}

/// Writes the file `path` whole or not at all: `content` fills the file that it is given.
pub fn write_with(path: &Path, content: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let partial = Partial::file(path)?;
    content(partial.path())?;
    partial.replace()
}

/// Writes `bytes` to the file `path`, all of them or none.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |partial| {
        fs::File::options()
            .write(true)
            .open(partial)?
            .write_all(bytes)
    })
}

/// Removes what processes that are gone have begun for `out`, and says what else is begun.
pub fn sweep(out: &Path) -> Begun {
    let mut begun = Begun::default();
    let name = out
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let entries = fs::read_dir(folder_of(out))
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    for path in entries.map(|entry| entry.path()) {
        let found = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(middle) = found
            .strip_prefix(&name)
            .and_then(|rest| rest.strip_suffix(".partial"))
        else {
            continue;
        };
        // Other middles are of other names: what is begun for `model.gguf` is not for `model`. Old
        // versions had none.
        if !(middle.is_empty() || claim::is_formed(middle)) || claim::is_own(middle) {
            continue;
        }
        let list = if claim::remove_if_left(&path, middle) {
            &mut begun.removed
        } else {
            &mut begun.kept
        };
        list.push(path);
    }
    begun.removed.sort();
    begun.kept.sort();
    begun
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
