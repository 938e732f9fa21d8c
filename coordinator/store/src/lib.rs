//! Durable job state, and artifacts by their content.
//!
//! [`JobStore`] takes batches of [`Write`]s: a batch is durable as a whole when it returns, or
//! nothing of it is. [`SqliteStore`] is the default; [`MemoryStore`] is for tests and measurements.
//! Both pass one conformance suite. [`ArtifactStore`] is a folder. This crate decides nothing about
//! jobs.
//!
//! A record that cannot be read does not hide the others: it is left in place, named, and skipped.

mod artifacts;
mod bounds;
mod error;
mod memory;
mod page;
mod records;
mod sqlite;

pub use artifacts::{
    ArtifactError, ArtifactReader, ArtifactStat, ArtifactStore, Digest256, Finished, InvalidDigest,
    Upload,
};
pub use bounds::Bounds;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use page::{Page, Wanted};
pub use records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord,
    Unreadable, Write,
};
pub use sqlite::SqliteStore;
