//! Artifacts in a bucket of S3, or of what speaks as S3 does.
//!
//! An artifact lies under `PREFIX/sha256/<first two>/<digest>`, as in a folder. An upload that
//! fits into one part is held in memory and put when its bytes are checked. A larger one is a
//! multipart upload to that key: each part is sent on as soon as it is full, S3 acknowledges it,
//! and a line of a local record says so. The bytes are hashed before they are sent, and only an
//! upload whose bytes hash to the digest is completed. Until then nothing is under the key, so no
//! temporary key and no copy is needed, and uploads of one digest at once have nothing in common.
//!
//! The record of an upload has its id, the parts that S3 has and the state of the hash after them.
//! An upload that broke off goes on after the last of these parts, also after a restart of the
//! coordinator. The record is on disk before the first part is sent, so that every upload that
//! takes room in the bucket can be ended.
//!
//! Bytes that are read from their beginning are hashed on their way. A later beginning is a range
//! of an object that was read or written before, which its entity tag tells; where it was not, the
//! bytes before it are read too.

mod bucket;
mod fault;
mod hash;
mod ledger;
mod open;
mod reader;
mod record;
mod resting;
mod upload;

pub(super) use bucket::Bucket;
pub use fault::BucketFault;
pub(super) use open::check_settings;
pub(super) use reader::ObjectReader;
pub(super) use upload::{FinishedObject, ObjectUpload};
