//! PostgreSQL: one leader writes, and others wait to take its place.
//!
//! A [`Candidate`] becomes a [`PostgresStore`] once it holds the database's lock. What keeps two
//! from writing is not that lock alone, which the server may give away while its holder is cut off:
//! each leader has an epoch, and every transaction checks it and holds it.

mod briefs;
mod bulk;
mod candidate;
mod database;
mod fault;
mod fill;
mod holding;
mod jobs;
mod leadership;
mod migrate;
mod store;
mod take;
mod writer;
mod writes;

pub use candidate::{Campaign, Candidate};
pub use database::Database;
pub use store::PostgresStore;
