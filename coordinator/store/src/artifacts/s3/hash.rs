//! A SHA-256 that can be put down after a part and taken up again by another process.
//!
//! The library's own hasher keeps its state to itself; its compression function does not.

use sha2::compress256;

/// Bytes that the function takes at one time.
pub(super) const BLOCK: usize = 64;

/// Of FIPS 180-4, section 5.3.3.
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The state after a whole number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Midstate([u32; 8]);

impl Midstate {
    pub fn start() -> Self {
        Self(START)
    }

    /// Takes whole blocks.
    pub fn update(&mut self, blocks: &[u8]) {
        let (blocks, rest) = blocks.as_chunks::<BLOCK>();
        debug_assert!(rest.is_empty(), "{} bytes are no block", rest.len());
        for block in blocks {
            compress256(&mut self.0, std::slice::from_ref(block.into()));
        }
    }

    /// The hash in hex, of `before` bytes that were taken and the `rest` of them.
    pub fn finish(mut self, before: u64, rest: &[u8]) -> String {
        let whole = rest.len() / BLOCK * BLOCK;
        self.update(&rest[..whole]);
        let bits = (before + rest.len() as u64) * 8;
        let mut end = rest[whole..].to_vec();
        end.push(0x80);
        while end.len() % BLOCK != BLOCK - 8 {
            end.push(0);
        }
        end.extend(bits.to_be_bytes());
        self.update(&end);
        hex::encode(self.bytes())
    }

    /// In hex, for a record.
    pub fn text(self) -> String {
        hex::encode(self.bytes())
    }

    /// What [`Self::text`] wrote.
    pub fn of_text(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
        let mut words = [0u32; 8];
        for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_be_bytes(four.try_into().ok()?);
        }
        Some(Self(words))
    }

    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        for (four, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            four.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn it_is_the_hash_of_the_library_wherever_it_was_put_down() {
        let bytes: Vec<u8> = (0..700u32).map(|i| (i * 7 % 251) as u8).collect();
        for length in 0..bytes.len() {
            let bytes = &bytes[..length];
            let wanted = hex::encode(Sha256::digest(bytes));
            for blocks in 0..=length / BLOCK {
                let (before, rest) = bytes.split_at(blocks * BLOCK);
                let mut state = Midstate::start();
                state.update(before);
                let taken_up = Midstate::of_text(&state.text()).expect("a state");
                assert_eq!(taken_up, state);
                assert_eq!(taken_up.finish(before.len() as u64, rest), wanted);
            }
        }
        assert_eq!(Midstate::of_text("00"), None);
        assert_eq!(Midstate::of_text("no state"), None);
    }
}
