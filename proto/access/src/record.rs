//! The record that a running coordinator leaves for clients of the same user and machine.
//!
//! It holds the token, the machine's boot id, and how the coordinator is spoken to. The coordinator
//! keeps it locked while it runs. A record whose lock is free was left by a coordinator that has
//! ended. Clients send its token to nobody, since anyone may listen on that address now. Of one that
//! spoke TLS the record stays, without the token, so that nobody speaks without to who answers there.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::token::Token;
use crate::{machine, records_folder};

/// Held while a record comes or goes.
const LOCK: &str = ".lock";
/// A record of another boot may be another machine's, which shares the folder; one this old is
/// nobody's.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// How the coordinator of a record is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls {
        /// The certificates, in PEM, by which its own is known; empty where those of the system are
        /// to know it.
        ca: String,
    },
}

/// What the third line of a record says of a coordinator that speaks TLS; the certificates stand
/// below it.
const TLS: &str = "tls";

impl Wire {
    fn of(record: &str) -> Self {
        let mut lines = record.lines().skip(2);
        match lines.next() {
            Some(TLS) => Self::Tls {
                ca: lines.map(|line| format!("{line}\n")).collect(),
            },
            _ => Self::Plain,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Tls { ca } => format!("{TLS}\n{ca}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("neither XDG_DATA_HOME nor HOME names a folder")]
    NoFolder,
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// A record; once this is dropped, no client takes it for that of a coordinator that runs.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    path: PathBuf,
    token: Token,
    /// Locked.
    file: File,
}

impl Record {
    /// Leaves a record of the coordinator that listens on `address` and speaks as `wire` says, and
    /// removes those of coordinators that are gone.
    ///
    /// # Errors
    /// The user's data folder cannot be written.
    pub fn leave(address: SocketAddr, token: &Token, wire: &Wire) -> Result<Self, RecordError> {
        Self::leave_in(
            &records_folder().ok_or(RecordError::NoFolder)?,
            address,
            token,
            wire,
        )
    }

    pub(crate) fn leave_in(
        folder: &Path,
        address: SocketAddr,
        token: &Token,
        wire: &Wire,
    ) -> Result<Self, RecordError> {
        let fault = |source| RecordError::Io {
            path: folder.into(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fault)?;
        let _guard = guard(folder).map_err(fault)?;
        sweep(folder);
        let path = path(folder, address);
        let file = write(folder, &path, token, wire).map_err(|source| RecordError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            folder: folder.into(),
            path,
            token: token.clone(),
            file,
        })
    }

    /// Says that the coordinator speaks as `wire` says from now on.
    ///
    /// # Errors
    /// The user's data folder cannot be written; the record stays as it is.
    pub fn change(&mut self, wire: &Wire) -> Result<(), RecordError> {
        let fault = |source| RecordError::Io {
            path: self.path.clone(),
            source,
        };
        let _guard = guard(&self.folder).map_err(fault)?;
        if is_at(&self.file, &self.path) {
            let written = write(&self.folder, &self.path, &self.token, wire);
            self.file = written.map_err(fault)?;
        }
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What cannot be removed is recognized by its free lock.
        let Ok(_guard) = guard(&self.folder) else {
            return;
        };
        if is_at(&self.file, &self.path) {
            forget(&self.folder, &self.path);
        }
    }
}

/// The record of the coordinator that listens on `address`.
pub(crate) fn path(folder: &Path, address: SocketAddr) -> PathBuf {
    folder.join(address.to_string())
}

/// What a record says.
pub(crate) enum Read {
    Live(Token, Wire),
    Stale,
    Missing,
}

/// Reads a record without holding up its coordinator.
pub(crate) fn read(path: &Path) -> Read {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Read::Missing,
        Err(_) => return Read::Stale,
    };
    let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let text = std::io::read_to_string(&file).unwrap_or_default();
    match Token::parse(&text, "the record") {
        Ok(token) if held && boot_of(&text) == machine::boot() => {
            Read::Live(token, Wire::of(&text))
        }
        _ => Read::Stale,
    }
}

/// The certificates of a coordinator that spoke TLS and is gone.
pub(crate) fn last_ca(path: &Path) -> Option<String> {
    let Read::Stale = read(path) else {
        return None;
    };
    match Wire::of(&fs::read_to_string(path).ok()?) {
        Wire::Tls { ca } => Some(ca),
        Wire::Plain => None,
    }
}

fn boot_of(text: &str) -> &str {
    text.lines().nth(1).unwrap_or_default()
}

fn guard(folder: &Path) -> std::io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))?;
    file.lock()?;
    Ok(file)
}

/// The record appears under its name when it is complete and locked.
fn write(folder: &Path, path: &Path, token: &Token, wire: &Wire) -> std::io::Result<File> {
    let file = complete(folder, token.secret(), wire)?;
    file.as_file().try_lock()?;
    file.persist(path).map_err(|e| e.error)
}

/// A record that has no name yet.
fn complete(folder: &Path, secret: &str, wire: &Wire) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder)?;
    let text = wire.text();
    write!(file, "{secret}\n{}\n{text}", machine::boot())?;
    Ok(file)
}

/// Leaves of the record of a coordinator that is gone that it spoke TLS, where it did, and nothing
/// else. The guard is held.
fn forget(folder: &Path, path: &Path) {
    let wire = fs::read_to_string(path).map_or(Wire::Plain, |text| Wire::of(&text));
    if wire != Wire::Plain
        && complete(folder, "", &wire).is_ok_and(|file| file.persist(path).is_ok())
    {
        return;
    }
    let _ = fs::remove_file(path);
}

/// Removes what coordinators left that are gone. The guard is held: nobody is about to lock a
/// record.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.ends_with(LOCK))
    {
        match left_over(&path) {
            Some(LeftOver::New) => forget(folder, &path),
            Some(LeftOver::Old) => drop(fs::remove_file(&path)),
            None => {}
        }
    }
}

/// What is left of a coordinator that is gone.
enum LeftOver {
    /// Its token may be there still.
    New,
    Old,
}

fn left_over(path: &Path) -> Option<LeftOver> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    let age = file
        .metadata()
        .and_then(|m| m.modified())
        .ok()
        .and_then(|at| at.elapsed().ok())
        .unwrap_or_default();
    let text = std::io::read_to_string(&file).unwrap_or_default();
    if age > FORGOTTEN {
        return Some(LeftOver::Old);
    }
    // What has no token is left as it is, and grows old.
    let is_new = !text.starts_with('\n') && boot_of(&text) == machine::boot();
    is_new.then_some(LeftOver::New)
}

/// Whether `path` still names `file`: another coordinator may have put its own record there.
fn is_at(file: &File, path: &Path) -> bool {
    let key = |m: fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => key(own) == key(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token(text: &str) -> Token {
        Token::parse(text, "test").expect("a token")
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn live(folder: &Path, at: &str) -> Option<String> {
        match read(&path(folder, address(at))) {
            Read::Live(token, _) => Some(token.secret().to_owned()),
            Read::Stale | Read::Missing => None,
        }
    }

    #[test]
    fn a_record_is_found_while_its_coordinator_runs_and_only_its_owner_can_read_it() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("qlora/coordinators");
        let one = Record::leave_in(
            &folder,
            address("127.0.0.1:7070"),
            &token("one"),
            &Wire::Plain,
        )
        .expect("a record");
        let two = Record::leave_in(&folder, address("[::1]:7071"), &token("two"), &Wire::Plain)
            .expect("a record");
        assert_eq!(live(&folder, "127.0.0.1:7070").as_deref(), Some("one"));
        assert_eq!(live(&folder, "[::1]:7071").as_deref(), Some("two"));
        assert_eq!(live(&folder, "127.0.0.1:7071"), None);
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&one.path)), (0o700, 0o600));
        drop(one);
        assert_eq!(
            (
                live(&folder, "127.0.0.1:7070"),
                live(&folder, "[::1]:7071").as_deref()
            ),
            (None, Some("two"))
        );
        drop(two);
        let left: Vec<_> = fs::read_dir(&folder)
            .expect("a folder")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn a_record_of_a_killed_coordinator_or_another_boot_is_stale_and_the_former_is_swept() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        let killed = path(folder, address("127.0.0.1:1"));
        fs::write(&killed, format!("a-token\n{}\n", machine::boot()))
            .expect("a record without a lock");
        let elsewhere = path(folder, address("127.0.0.1:2"));
        fs::write(&elsewhere, "a-token\nanother-boot\n").expect("a record");
        let locked = File::open(&elsewhere).expect("a file");
        locked.lock().expect("a lock");
        assert!(matches!(read(&killed), Read::Stale) && matches!(read(&elsewhere), Read::Stale));
        drop(locked);
        let _other = Record::leave_in(
            folder,
            address("127.0.0.1:3"),
            &token("three"),
            &Wire::Plain,
        )
        .expect("a record");
        assert!(
            matches!(read(&killed), Read::Missing),
            "what a killed coordinator left is swept"
        );
        assert!(
            matches!(read(&elsewhere), Read::Stale),
            "what may be another machine's stays"
        );
        let old = std::time::SystemTime::now() - FORGOTTEN - Duration::from_secs(60);
        File::options()
            .write(true)
            .open(&elsewhere)
            .and_then(|f| f.set_modified(old))
            .expect("an age");
        let _more = Record::leave_in(folder, address("127.0.0.1:4"), &token("four"), &Wire::Plain)
            .expect("a record");
        assert!(
            matches!(read(&elsewhere), Read::Missing),
            "what is old is swept"
        );
        assert_eq!(live(folder, "127.0.0.1:3").as_deref(), Some("three"));
    }

    #[test]
    fn who_stops_late_does_not_remove_the_record_of_who_came_after() {
        let home = tempfile::tempdir().expect("a folder");
        let at = address("127.0.0.1:7070");
        let before =
            Record::leave_in(home.path(), at, &token("before"), &Wire::Plain).expect("a record");
        let after =
            Record::leave_in(home.path(), at, &token("after"), &Wire::Plain).expect("a record");
        drop(before);
        assert_eq!(
            live(home.path(), "127.0.0.1:7070").as_deref(),
            Some("after")
        );
        drop(after);
        assert_eq!(live(home.path(), "127.0.0.1:7070"), None);
    }

    #[test]
    fn a_record_says_how_its_coordinator_is_spoken_to() {
        let home = tempfile::tempdir().expect("a folder");
        let ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let wires = [
            Wire::Plain,
            Wire::Tls { ca: ca.into() },
            Wire::Tls { ca: String::new() },
        ];
        for wire in wires {
            let at = address("127.0.0.1:7070");
            let _record =
                Record::leave_in(home.path(), at, &token("one"), &wire).expect("a record");
            let read = read(&path(home.path(), at));
            assert!(
                matches!(&read, Read::Live(token, found) if token.is("one") && *found == wire),
                "{wire:?}"
            );
        }
    }
}
