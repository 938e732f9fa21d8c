//! What every caller of the coordinator needs: one connection with token and trace context,
//! transfers of artifacts that go on where they broke off, and a safe way to print what comes over
//! the wire. What is called, and when, is the caller's business.

mod archive;
mod connection;
pub mod console;
mod credentials;
pub mod fault;
pub mod files;
pub mod retry;
pub mod transfer;
mod transfer_error;
mod unpack;

pub use archive::Archive;
pub use connection::{Client, ConnectError, Service};
pub use fault::Fault;
pub use qlora_access::data_folder;
pub use transfer_error::TransferError;
pub use unpack::unpack;
