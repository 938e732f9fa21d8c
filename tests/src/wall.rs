//! A wall clock that is set wrong while a program runs. See `wall.c`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The library, and the file that says how wrong the clock is.
pub struct Wall {
    folder: tempfile::TempDir,
}

impl Wall {
    /// A clock that is right. It is built with the C compiler that SQLite is built with.
    ///
    /// # Panics
    /// There is no C compiler.
    pub fn new() -> Self {
        let wall = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let source = wall.path("wall.c");
        fs::write(&source, include_str!("wall.c")).expect("a source");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(wall.path("wall.so"))
            .arg(&source)
            .arg("-ldl")
            .status();
        assert!(
            built.expect("a C compiler").success(),
            "the clock cannot be built"
        );
        wall
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Variables for a program that is to read this clock.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let text = |name| self.path(name).to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", text("wall.so")),
            ("WALL_AHEAD", text("ahead")),
        ]
    }

    /// Sets it `seconds` ahead of the machine's, or behind.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn set_ahead(&self, seconds: i64) {
        // In one step: who reads it meanwhile has the one time or the other.
        let path = self.path("next");
        fs::write(&path, seconds.to_string()).expect("a file");
        fs::rename(path, self.path("ahead")).expect("a file");
    }
}

impl Default for Wall {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_the_clock_as_it_is_set() {
        let wall = Wall::new();
        let now = || {
            let mut date = Command::new("date");
            date.arg("+%s").envs(wall.env());
            let said = date.output().expect("date runs").stdout;
            let text = String::from_utf8(said).expect("text");
            text.trim().parse::<i64>().expect("seconds")
        };
        let right = now();
        for hours in [1, -1] {
            wall.set_ahead(hours * 3600);
            let off = now() - right - hours * 3600;
            assert!((0..60).contains(&off), "{off}");
        }
    }
}
