//! What commands print: results on stdout. A reader that goes away ends the command, without a
//! panic.

use std::fmt::Display;
use std::path::Path;

use qlora_client::console;
use serde_json::Value;

use crate::error::WorkerError;

/// Prints a result for people; what acts on a terminal is shown escaped.
pub fn print(text: impl Display) -> Result<(), WorkerError> {
    write(&console::block(&format!("{text}\n")))
}

/// Prints one line of JSON.
pub fn print_json(value: &Value) -> Result<(), WorkerError> {
    write(&console::json(&format!("{value}\n")))
}

fn write(text: &str) -> Result<(), WorkerError> {
    console::write(text).map_err(|source| match source.kind() {
        std::io::ErrorKind::BrokenPipe => WorkerError::OutputClosed,
        _ => WorkerError::Io {
            path: "stdout".into(),
            source,
        },
    })
}

/// JSON has no number that is not finite; such a value is the text `NaN`, `Infinity` or
/// `-Infinity`.
pub fn number(x: f64) -> Value {
    console::not_finite(x).map_or_else(|| x.into(), Value::from)
}

/// Refuses, before any work, a file to write in a folder that is not there.
pub fn placed(out: &Path) -> Result<(), WorkerError> {
    let folder = out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match std::fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Err(WorkerError::io(folder)(
            std::io::ErrorKind::NotADirectory.into(),
        )),
        found => found.map(drop).map_err(WorkerError::io(folder)),
    }
}
