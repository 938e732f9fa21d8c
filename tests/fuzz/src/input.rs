//! The bytes of one input, written so that a person can read them and a program can take them back.

use std::fmt;

/// Bytes that a message shows; the file of a failed input has all of them.
const SHOWN: usize = 2000;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Input(pub Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN)];
        write!(f, "{} bytes: b\"{}\"", self.0.len(), shown.escape_ascii())
    }
}
