//! Identities that cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A job; counts from 1 in the order of submission.
    JobId
);
/// An attempt at a job. Later attempts, of whichever job, have greater tokens, and nobody can guess
/// one: the upper half counts, the lower half is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

impl Token {
    const SECRET_BITS: u32 = 32;

    /// The token of the attempt that is the `number`th of all.
    pub(crate) fn new(number: u64, secret: u32) -> Self {
        Self(number << Self::SECRET_BITS | u64::from(secret))
    }

    /// The attempt's number among all of the coordinator; people are shown the one within its job.
    pub fn number(self) -> u64 {
        match self.0 >> Self::SECRET_BITS {
            // Given before tokens had a random half.
            0 => self.0,
            number => number,
        }
    }
}

id!(
    /// A worker's connection from its registration on; random, so that only the worker knows it.
    SessionId
);
id!(
    /// Milliseconds since 1970.
    Millis
);

/// The time of an event on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never jumps: leases and waits are measured on it. It begins near the wall clock, so that a
    /// wait that was stored means about the same to the next process.
    pub steady: Millis,
    /// What people are shown. It may jump either way.
    pub wall: Millis,
}

impl Now {
    /// `ms` on both clocks.
    pub fn both(ms: u64) -> Self {
        Self {
            steady: Millis(ms),
            wall: Millis(ms),
        }
    }
}

impl Millis {
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}
