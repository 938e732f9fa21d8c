//! Durable job state, and artifacts by their content.
//!
//! [`JobStore`] takes batches of [`Write`]s: a batch is durable as a whole when it returns, or
//! nothing of it is. [`SqliteStore`] is the default; [`PostgresStore`] serves where a second
//! coordinator is to take over; [`MemoryStore`] is for tests and measurements. All pass one
//! conformance suite. [`Faulty`] is one in memory that fails as a test says. [`ArtifactStore`] is a folder or a bucket. This crate
//! decides nothing about jobs.
//!
//! A record that cannot be read does not hide the others: it is left in place, named, and skipped.

mod artifacts;
mod bounds;
mod error;
mod faulty;
mod memory;
mod moving;
mod named;
mod page;
mod postgres;
mod records;
mod rows;
mod set_aside;
mod sqlite;
mod start;
mod tables;

pub use artifacts::{
    ArtifactError, ArtifactPlace, ArtifactReader, ArtifactStat, ArtifactStore, BucketFault,
    BucketPlace, Claim, Digest256, Finished, InvalidDigest, InvalidPlace, Owner, Upload,
};
pub use bounds::Bounds;
pub use error::StoreError;
pub use faulty::{Faults, Faulty};
pub use memory::MemoryStore;
pub use moving::{Moved, move_all};
pub use page::{JobQuery, Page};
pub use postgres::{Campaign, Candidate, Database, PostgresStore};
pub use records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord,
    Unreadable, Write,
};
pub use set_aside::SetAside;
pub use sqlite::SqliteStore;
pub use tables::moved_columns;
