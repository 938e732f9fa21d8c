//! The name of an artifact. A text is checked here once, and the store takes no other name.

use std::fmt;
use std::str::FromStr;

/// Longer texts are cut where an error repeats them to their sender.
const LONGEST_SHOWN: usize = 80;

/// A SHA-256 as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest256(String);

impl Digest256 {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Artifacts are spread over folders by their first two digits.
    pub(super) fn folder(&self) -> &str {
        &self.0[..2]
    }
}

/// Why a text is no [`Digest256`].
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is no SHA-256 in lower-case hexadecimal")]
pub struct InvalidDigest {
    text: String,
}

impl FromStr for Digest256 {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let valid = text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDigest {
                text: text.chars().take(LONGEST_SHOWN).collect(),
            })
        }
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
