//! What people and programs read: results on stdout, errors and progress on stderr.

pub mod human;
pub mod json;
mod table;
pub mod workers;

use std::fmt::Display;

pub use qlora_client::fault::under;
use qlora_client::{Fault, console, fault};
use serde_json::Value;

use crate::error::CtlError;

/// Tells of `error` in the form of compilers, or as one JSON object.
pub fn print_error(error: &CtlError, as_json: bool) {
    match error {
        CtlError::OutputClosed => {}
        // These name the place behind the message.
        CtlError::Config(errors) if !as_json => console::note(&console::block(&errors.to_string())),
        _ if as_json => fault::tell(&error.faults(), true),
        _ => console::note(&console::block(&error_text(error))),
    }
}

fn error_text(error: &CtlError) -> String {
    match error {
        // What the coordinator says with a code of its own needs no other.
        CtlError::Refused { message, .. } if !Fault::parse(message).is_empty() => message.clone(),
        CtlError::NoModel { .. } => error.faults().iter().map(Fault::text).collect(),
        _ => Fault::new(error.code(), error.to_string(), error.help()).text(),
    }
}

/// Prints a result for people to stdout. Fields from outside are brought onto one line where they
/// are put in ([`console::line`]); whatever else acts on a terminal is caught here.
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
        let refused = |message: &str| CtlError::Refused {
            message: message.into(),
            help: "",
            exit: Exit::Refused,
        };
        assert_eq!(
            error_text(&refused("no\n  help: run x")),
            "error[Q0403]: no\n  |   help: run x"
        );
        let coded = "error[Q0100]: x is not YAML\n  help: mend it";
        assert_eq!(error_text(&refused(coded)), coded);
    }
}
