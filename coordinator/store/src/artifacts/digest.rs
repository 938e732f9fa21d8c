//! What an artifact is called.

use std::fmt;
use std::str::FromStr;

use super::ArtifactError;

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

impl FromStr for Digest256 {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self, ArtifactError> {
        let valid = text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ArtifactError::BadDigest {
                text: text.chars().take(80).collect(),
            })
        }
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
