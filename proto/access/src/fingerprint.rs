//! What a coordinator keeps of a token that it gave out: enough to know it again, and nothing to
//! send.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a secret.
#[derive(Debug, Clone)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Reads what [`Self::hex`] has written.
    pub fn parse(hex: &str) -> Option<Self> {
        let bytes = hex::decode(hex).ok()?;
        bytes.try_into().ok().map(Self)
    }

    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first bytes, by which a table finds the few that may be equal. They tell nothing of the
    /// secret, so it does not matter that looking them up takes a time of its own.
    pub fn start(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }

    /// Compares in time that does not depend on where the two differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_by_what_is_kept_and_no_other_is() {
        let kept = Fingerprint::of("a-secret").hex();
        assert!(!kept.contains("a-secret") && kept.len() == 64);
        let read = Fingerprint::parse(&kept).expect("a fingerprint");
        assert!(read.is(&Fingerprint::of("a-secret")));
        for other in ["", "a-secre", "a-secreT", "a-secret ", kept.as_str()] {
            assert!(!read.is(&Fingerprint::of(other)), "{other}");
        }
        for damaged in ["", "ab", &kept[..62], "zz"] {
            assert!(Fingerprint::parse(damaged).is_none(), "{damaged}");
        }
    }
}
