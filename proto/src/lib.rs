//! The `qlora.v1` protocol as Rust types, clients and servers.
//!
//! They are generated at build time from `qlora/v1/*.proto`, which say what each field means.
//! Beside the generated code this crate has only what every client and server needs: the
//! descriptors for reflection, leases and their clock, the words of the wire, and numbers as people
//! read and write them.

#[allow(clippy::all, missing_docs)]
mod generated {
    tonic::include_proto!("qlora.v1");
}

pub mod clock;
pub mod lease;
mod names;
pub mod numbers;
pub mod words;

pub use generated::*;
pub use names::{ArtifactKind, EventKind, FileRole, LogLevel, Metric, Role};

/// Descriptors of every message and service, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/qlora.v1.bin"));

/// The path of every method of every service, as the descriptors have them.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The metadata key that carries the access token, as `Bearer <token>`.
pub const AUTHORIZATION: &str = "authorization";

/// The metadata key of a refusal that passes by itself: the milliseconds after which it has. A
/// worker whose identity another one has is taken once the lease of that one has ended.
pub const PASSES_AFTER: &str = "qlora-passes-after-ms";

/// How the refusal of a coordinator begins that another one leads.
pub const STANDBY: &str = "this coordinator is a standby";

/// How it goes on where the address of the one that leads is known, which follows.
pub const LED_BY: &str = "; call the leader at ";

/// Bytes of one message of a transfer.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * 3600 * 1000;

impl JobState {
    /// The word that screens and JSON use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing moves a job out of this state.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl Attempt {
    /// Its workers by name, the first one first.
    pub fn workers(&self) -> String {
        let others = self.others.iter().map(|other| format!(", {other}"));
        std::iter::once(self.worker.clone()).chain(others).collect()
    }
}

impl Drain {
    /// For how long, seen at `unix_ms`, and why: `for 5 min 00 s: new disk`.
    pub fn words(&self, unix_ms: i64) -> String {
        let seconds = unix_ms.saturating_sub(self.since_unix_ms).max(0) as f64 / 1000.0;
        format!("for {}: {}", words::duration(seconds), self.reason)
    }
}

impl DeviceClass {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}
