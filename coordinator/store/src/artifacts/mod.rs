//! Artifacts, each under its SHA-256: complete and right, or not there.
//!
//! They lie in a folder of this machine or in a bucket; `folder` and `s3` say how. The modules
//! beside them hold what is the same for both: names, errors, and which artifacts may go.

mod blocking;
mod claims;
mod digest;
mod error;
mod folder;
mod found;
mod owner;
mod place;
mod reader;
mod s3;
mod store;
mod upload;

pub use claims::Claim;
pub use digest::{Digest256, InvalidDigest};
pub use error::ArtifactError;
pub use owner::Owner;
pub use place::{ArtifactPlace, BucketPlace, InvalidPlace};
pub use reader::ArtifactReader;
pub use s3::BucketFault;
pub use store::{ArtifactStat, ArtifactStore};
pub use upload::{Finished, Upload};
