//! What is wrong with a configuration that was parsed: wrong values and missing keys. The caller adds
//! places in the source and puts them in order.

use qlora_codes::Code;

/// A wrong value, or a required key that is missing.
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
    /// Records a fault of `key`, unless it is `ok`.
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

    /// Records that the required `key` is missing, unless it is `given`.
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
