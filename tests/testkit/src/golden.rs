//! What other programs have recorded for tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// `name` below the repository's `tests/golden`.
///
/// # Panics
/// This crate does not lie in the repository.
pub fn golden(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    tests
        .expect("the folder of tests")
        .join("golden")
        .join(name)
}

/// The JSON of a golden file.
///
/// # Panics
/// There is no such file, or it is no JSON.
pub fn golden_json(name: &str) -> Value {
    let text = fs::read_to_string(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}
