//! What people and programs read: results on stdout, errors and progress on stderr.

pub mod follow;
pub mod human;
pub mod json;
mod table;
pub mod waiting;

use std::fmt::Display;

use qlora_client::console;
use serde_json::{Value, json};

use crate::error::CtlError;

/// Prints `error` in the form of compilers, or as one JSON object.
pub fn print_error(error: &CtlError, as_json: bool) {
    if matches!(error, CtlError::OutputClosed) {
        return;
    }
    if as_json {
        console::note(&console::json(&error_json(error).to_string()));
    } else {
        console::note(&console::block(&error_text(error)));
    }
}

fn error_text(error: &CtlError) -> String {
    match error {
        CtlError::Config(errors) => errors.to_string(),
        // What the coordinator says with a code of its own needs no other.
        CtlError::Refused { message, .. } if message.starts_with("error[Q") => message.clone(),
        _ => {
            let head = format!("error[{}]: {}", error.code(), under(&error.to_string(), "  | "));
            let help = error.help();
            if help.is_empty() { head } else { format!("{head}\n  help: {help}") }
        }
    }
}

/// Text of several lines with `margin` before all but the first, so that none can be taken for a line of ours.
pub fn under(text: &str, margin: &str) -> String {
    let lines: Vec<_> = text.lines().map(console::line).collect();
    lines.join(&format!("\n{margin}"))
}

/// One object for one fault; every fault of a configuration stands in `errors`.
fn error_json(error: &CtlError) -> Value {
    let faults: Vec<Value> = match error {
        CtlError::Config(errors) => errors.0.iter().map(json::diagnostic).collect(),
        _ => vec![json!({"code": error.code(), "message": error.to_string(), "help": error.help()})],
    };
    json!({"v": 1, "error": faults.first(), "errors": faults})
}

/// Prints a result for people to stdout. Fields from outside are brought onto one line where they are put in
/// ([`console::line`]); whatever else acts on a terminal is caught here.
pub fn print(text: impl Display) -> Result<(), CtlError> {
    Ok(console::write(&console::block(&format!("{text}\n")))?)
}

/// Prints text whose control characters are its own.
pub fn print_exact(text: &str) -> Result<(), CtlError> {
    Ok(console::write(text)?)
}

/// Prints one line of JSON to stdout.
pub fn print_json(value: &Value) -> Result<(), CtlError> {
    Ok(console::write(&console::json(&format!("{value}\n")))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_refusal_cannot_forge_lines_and_a_coded_one_keeps_its_code() {
        let refused = |message: &str| CtlError::Refused { message: message.into(), help: "", exit: Exit::Refused };
        assert_eq!(error_text(&refused("no\n  help: run x")), "error[Q0403]: no\n  |   help: run x");
        let coded = "error[Q0100]: x is not YAML\n  help: mend it";
        assert_eq!(error_text(&refused(coded)), coded);
    }
}
