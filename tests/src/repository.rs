//! The repository that this program was compiled in, and the files that git knows of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the repository.
///
/// # Panics
/// The crate does not lie in it.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
        .to_owned()
}

/// Paths of all files, counted from the root.
///
/// # Panics
/// git does not run there.
pub fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let text = String::from_utf8(listed.stdout).expect("names");
    let files: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(files.len() > 300, "git lists {} files", files.len());
    files
}

/// Whether `file` is Rust of a program, and not of tests, measurements and examples.
pub fn is_program(file: &str) -> bool {
    let apart = |part: &str| ["tests", "benches", "examples"].contains(&part);
    file.ends_with(".rs") && !file.ends_with("tests.rs") && !file.split('/').any(apart)
}
