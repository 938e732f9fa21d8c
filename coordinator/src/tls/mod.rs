//! TLS of the coordinator: makes a CA and certificates, and serves with them.
//!
//! `folder` says where the files lie in a state folder and how they are written, `make` makes
//! certificates, `sources` reads those that are served, and `serving` keeps them up to date. What
//! happens on a connection is the subject of `listen`.

mod error;
mod folder;
mod make;
mod serving;
mod sources;

pub use self::error::TlsError;
pub use self::folder::Folder;
pub use self::make::{certify, init};
pub use self::serving::Serving;
pub use self::sources::{Given, Sources};

#[cfg(test)]
mod tests;
