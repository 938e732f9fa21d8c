//! A disk that fails when it is told to, for a program that is started with it. See `disk.c`.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The library, and where it says and is told things.
pub struct Disk {
    folder: tempfile::TempDir,
    /// Part of the paths that are on it.
    matches: String,
}

impl Disk {
    /// Builds it with the C compiler that SQLite is built with.
    pub fn new(matches: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("disk.c");
        fs::write(&source, include_str!("disk.c")).expect("a source");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("disk.so"))
            .arg(&source)
            .arg("-ldl")
            .status();
        assert!(
            built.expect("a C compiler").success(),
            "the disk cannot be built"
        );
        Self {
            folder,
            matches: matches.into(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Variables for a program that is to have this disk.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".into(), text(self.path("disk.so"))),
            ("DISK_MATCH".into(), self.matches.clone()),
            ("DISK_FULL".into(), text(self.path("full"))),
            ("DISK_FIRED".into(), text(self.path("fired"))),
        ]
    }

    /// Makes the disk full, or gives it room again.
    pub fn set_full(&self, full: bool) {
        let path = self.path("full");
        if full {
            fs::write(path, "").expect("a file")
        } else {
            fs::remove_file(path).expect("a file")
        }
    }

    /// Whether something has failed since this was last asked.
    pub fn has_failed(&self) -> bool {
        fs::remove_file(self.path("fired")).is_ok()
    }
}
