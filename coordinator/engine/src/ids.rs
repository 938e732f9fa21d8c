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
id!(
    /// An attempt at a job. Later attempts, of whichever job, have greater tokens.
    Token
);
id!(
    /// A worker's connection from its registration on.
    SessionId
);
id!(
    /// Milliseconds since 1970.
    Millis
);

impl Millis {
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0 + ms)
    }
}
