//! The record that a running coordinator leaves for clients of the same user and machine.
//!
//! It holds the token, the machine's boot id, and how the coordinator is spoken to. The coordinator
//! keeps it locked while it runs. A record whose lock is free was left by a coordinator that has
//! ended. Clients send its token to nobody, since anyone may listen on that address now.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// A record; removed when this is dropped.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    path: PathBuf,
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
            file,
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What cannot be removed is recognized by its free lock.
        let Ok(_guard) = guard(&self.folder) else {
            return;
        };
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
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
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let text = wire.text();
    write!(file, "{}\n{}\n{text}", token.secret(), machine::boot())?;
    file.as_file().try_lock()?;
    file.persist(path).map_err(|e| e.error)
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
        if is_left_over(&path) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_left_over(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    if file.try_lock().is_err() {
        return false;
    }
    let age = file
        .metadata()
        .and_then(|m| m.modified())
        .ok()
        .and_then(|at| at.elapsed().ok())
        .unwrap_or_default();
    let text = std::io::read_to_string(&file).unwrap_or_default();
    boot_of(&text) == machine::boot() || age > FORGOTTEN
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
