//! What people and programs read: results on stdout, errors and progress on stderr.

pub mod follow;
pub mod human;
pub mod json;

use crate::error::CtlError;

/// Prints `error` in the form of compilers, or as one JSON object.
pub fn print_error(error: &CtlError, as_json: bool) {
    if as_json {
        let value = serde_json::json!({ "v": 1, "error": { "code": error.code(), "message": error.to_string(), "help": error.help() } });
        eprintln!("{value}");
        return;
    }
    if let CtlError::Config(errors) = error {
        eprintln!("{errors}");
        return;
    }
    eprintln!("error[{}]: {error}", error.code());
    let help = error.help();
    if !help.is_empty() {
        eprintln!("  help: {help}");
    }
}

/// Prints one line of JSON to stdout.
pub fn print_json(value: &serde_json::Value) {
    println!("{value}");
}
