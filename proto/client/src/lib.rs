//! What every caller of the coordinator needs: a connection with token and trace context to the one
//! of several that leads, transfers of artifacts that resume where they were interrupted, and a safe
//! way to print text from the wire. The caller decides what to call, and when.

mod address;
mod archive;
mod connection;
pub mod console;
mod credentials;
mod dial;
pub mod fault;
pub mod files;
mod link;
mod link_fault;
pub mod retry;
mod route;
pub mod simulated;
pub mod transfer;
mod transfer_error;
mod trust;
mod unpack;
pub mod waits;

pub use address::{Address, Scheme, several};
pub use archive::Archive;
pub use connection::{Client, ConnectError};
pub use fault::Fault;
pub use link_fault::LinkFault;
pub use qlora_access::data_folder;
pub use route::Route;
pub use transfer_error::TransferError;
pub use trust::{TlsFileError, TlsFiles};
pub use unpack::{MOST_ENTRIES, is_archive, unpack};
