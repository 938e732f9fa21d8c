//! How many connections there may be, and how long each may be idle.

use std::time::Duration;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// How long a stranger's connection may have no request under way; the head of a request counts
    /// as none.
    pub stranger: Duration,
    /// The same for one that has shown the token.
    pub known: Duration,
    /// An HTTP/2 peer that says nothing is asked this often, and has as long to answer.
    pub ping: Duration,
    /// How long a connection may take to end after it was told to.
    pub farewell: Duration,
}

impl Bounds {
    /// Three quarters of the descriptors are for connections, the others for the database,
    /// artifacts and logs.
    pub fn of(descriptors: u64) -> Self {
        let connections = usize::try_from(descriptors / 4 * 3)
            .unwrap_or(usize::MAX)
            .clamp(16, 16_384);
        Self {
            connections,
            stranger: Duration::from_secs(10),
            known: Duration::from_secs(300),
            ping: Duration::from_secs(20),
            farewell: Duration::from_secs(5),
        }
    }
}
