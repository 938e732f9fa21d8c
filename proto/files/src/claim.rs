//! The temporary name that a process writes under, and the lock that tells others whether it still
//! writes.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells this process from others, also from those of other machines.
static OWN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}-{:08x}",
        std::process::id(),
        RandomState::new().build_hasher().finish() as u32
    )
});

/// Tells this start of this machine from all others; none where the system does not say.
static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
    let id: String = boot()?
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(12)
        .collect();
    (id.len() == 12).then(|| id.to_ascii_lowercase())
});

/// Stands in a name for the start of the machine where there is no lock to see.
const UNLOCKED: &str = "unlocked";

#[cfg(target_os = "macos")]
fn boot() -> Option<String> {
    let output = std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "kern.bootsessionuuid"])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(not(target_os = "macos"))]
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// A locked file or folder, which is removed unless it is kept.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    kind: Kind,
    kept: bool,
    _lock: Option<File>,
}

impl Claim {
    pub(super) fn new(out: &Path, kind: Kind) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let named = |start: &str| {
            let mut name = out.as_os_str().to_owned();
            name.push(format!(
                ".{start}.{}.{}.partial",
                *OWN,
                COUNT.fetch_add(1, Ordering::Relaxed)
            ));
            PathBuf::from(name)
        };
        while let Some(start) = BOOT.as_deref() {
            let path = named(start);
            create(&path, kind)?;
            let mut claim = Self {
                path,
                kind,
                kept: false,
                _lock: None,
            };
            let lock = File::open(&claim.path).and_then(|file| file.lock().map(|()| file));
            match lock {
                // Before it was locked, another process may have taken it for one that was left.
                Ok(lock) if is_at(&claim.path, &lock) => {
                    claim._lock = Some(lock);
                    return Ok(claim);
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // The disk has no locks.
                Err(_) => break,
            }
        }
        let path = named(UNLOCKED);
        create(&path, kind)?;
        Ok(Self {
            path,
            kind,
            kept: false,
            _lock: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It has its final name now.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            // The error that ends the work is told; a second one adds nothing, and the next process
            // tries again.
            drop(remove(&self.path, self.kind));
        }
    }
}

fn create(path: &Path, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::File => File::create_new(path).map(|_| ()),
        Kind::Folder => fs::create_dir(path),
    }
}

fn remove(path: &Path, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::File => fs::remove_file(path),
        Kind::Folder => fs::remove_dir_all(path),
    }
}

fn is_at(path: &Path, file: &File) -> bool {
    let at = |meta: fs::Metadata| (meta.dev(), meta.ino());
    fs::symlink_metadata(path)
        .ok()
        .map(at)
        .is_some_and(|there| file.metadata().ok().map(at) == Some(there))
}

/// Whether `middle`, what a name has between that of its target and its ending, is as
/// [`Claim::new`] makes it, here or on another machine.
pub(super) fn is_formed(middle: &str) -> bool {
    let mut parts = middle.split('.');
    let ("", Some(start), Some(process), Some(count), None) = (
        parts.next().unwrap_or_default(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return false;
    };
    let Some((id, random)) = process.split_once('-') else {
        return false;
    };
    (start == UNLOCKED || is_hex(start, 12))
        && is_number(id)
        && is_hex(random, 8)
        && is_number(count)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `middle`, what a name has between that of its target and its ending, is of this process.
pub(super) fn is_own(middle: &str) -> bool {
    middle.split('.').nth(2) == Some(OWN.as_str())
}

/// Removes the file or folder at `path`, whose name has `middle`, where it is of this start of the
/// machine and no process holds it; says whether it is gone.
pub(super) fn remove_if_left(path: &Path, middle: &str) -> bool {
    let start = middle.split('.').nth(1);
    if start.is_none() || start != BOOT.as_deref() {
        return false;
    }
    let Ok(meta) = fs::symlink_metadata(path) else {
        return false;
    };
    let kind = if meta.is_dir() {
        Kind::Folder
    } else {
        Kind::File
    };
    let Ok(file) = File::open(path) else {
        return false;
    };
    match file.try_lock() {
        Ok(()) => is_at(path, &file) && remove(path, kind).is_ok(),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}

/// A name as another process of this start of the machine gives it.
#[cfg(test)]
pub(super) fn of_another(out: &Path) -> Option<PathBuf> {
    let mut name = out.as_os_str().to_owned();
    name.push(format!(".{}.17-0badcafe.0.partial", BOOT.as_deref()?));
    Some(name.into())
}
