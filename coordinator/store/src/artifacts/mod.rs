//! Artifacts in a folder, each under its SHA-256.
//!
//! Every upload writes a file of its own, `partial/<digest>.<number>`, and hashes what it writes.
//! When all bytes are there and hash to the digest, the file is synced, renamed to `sha256/<first
//! two>/<digest>`, and the folder is synced: under that name an artifact is complete, right and
//! durable. The file of an upload that breaks off waits for the next one of the same digest, which
//! goes on with it or begins anew; it is nobody else's meanwhile.
//!
//! What lies under a final name is hashed again before it is vouched for, once after every start
//! and whenever it was changed. What turns out to be damaged counts as not there, so that the next
//! upload replaces it.

mod blocking;
mod digest;
mod error;
mod folder;
mod hashes;
mod partial;
mod reader;
mod store;
mod upload;

pub use digest::{Digest256, InvalidDigest};
pub use error::ArtifactError;
pub use reader::ArtifactReader;
pub use store::{ArtifactStat, ArtifactStore};
pub use upload::{Finished, Upload};
