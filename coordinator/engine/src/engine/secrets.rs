//! Values that nobody outside can guess: sessions, and the random half of tokens.
//!
//! The engine draws them from a seed that it is given, so that it stays a function of its inputs.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::ids::SessionId;

/// From the system's source of random bytes; the same seed gives the same secrets.
pub type Seed = [u8; 32];

#[derive(Debug)]
pub(super) struct Secrets(ChaCha20Rng);

impl Secrets {
    pub fn new(seed: Seed) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// Never 0, which stands for none.
    pub fn session(&mut self) -> SessionId {
        SessionId(self.0.next_u64().max(1))
    }

    pub fn half_of_token(&mut self) -> u32 {
        self.0.next_u32()
    }
}
