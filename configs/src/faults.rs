//! Values that are of the right type and still wrong, as whoever finds them notes them. Where a key
//! was written, and which fault comes first, is not known here.

use qlora_codes::Code;

/// A value that is of the right type and still wrong.
pub(crate) struct Fault {
    pub code: Code,
    pub key: &'static str,
    pub message: String,
    pub help: Option<String>,
}

/// The faults that were found so far.
#[derive(Default)]
pub(crate) struct Faults(pub Vec<Fault>);

impl Faults {
    /// Notes that `key` has a wrong value, unless it is `ok`.
    pub fn require(
        &mut self,
        ok: bool,
        key: &'static str,
        message: impl FnOnce() -> String,
        help: &str,
    ) {
        if !ok {
            self.0.push(Fault {
                code: Code::InvalidValue,
                key,
                message: message(),
                help: Some(help.to_owned()),
            });
        }
    }

    /// Notes that `key`, which has no default, is not `given`.
    pub fn needed(&mut self, given: bool, key: &'static str, help: &str) {
        if !given {
            let message = format!("`{key}` is missing");
            self.0.push(Fault {
                code: Code::MissingKey,
                key,
                message,
                help: Some(help.to_owned()),
            });
        }
    }
}
