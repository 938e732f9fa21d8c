//! What commands print: results on stdout. A reader that goes away ends the command, without a panic.

use std::fmt::Display;

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
        _ => WorkerError::Io { path: "stdout".into(), source },
    })
}

/// JSON has no number that is not finite; such a value is the text `NaN`, `Infinity` or `-Infinity`.
pub fn number(x: f64) -> Value {
    console::not_finite(x).map_or_else(|| x.into(), Value::from)
}
