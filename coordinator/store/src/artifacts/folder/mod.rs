//! Artifacts in a folder of this machine.
//!
//! Every upload writes a file of its own, `partial/<digest>.<number>`, and hashes what it writes.
//! When all bytes are there and hash to the digest, the file is synced, renamed to `sha256/<first
//! two>/<digest>`, and the folder is synced: under that name an artifact is complete, right and
//! durable. The file of an interrupted upload waits for the next upload of the same digest, which
//! resumes it or starts over; nobody else uses it meanwhile.
//!
//! A file under a final name is hashed again before the store vouches for it, once after every
//! start and whenever it was changed. A damaged file counts as missing, so that the next upload
//! replaces it.

mod files;
mod hashes;
mod mark;
mod partial;
mod reader;
mod shelves;
mod upload;

pub(super) use files::Folder;
pub(super) use mark::check;
pub(super) use reader::FileReader;
pub(super) use shelves::older_than;
pub(super) use upload::{FileUpload, FinishedFile};
