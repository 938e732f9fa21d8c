//! What other programs have recorded for tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// `name` below the repository's `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../golden")
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
