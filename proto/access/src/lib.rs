//! Access to a coordinator: the token that every call carries, and how programs of one user find it
//! on one machine.
//!
//! The coordinator keeps a token in its state folder and leaves a record of it, named by its
//! address, in the user's data folder. Clients that were given no token look for the record of the
//! address that they call. Of further tokens, which it gives out, the coordinator keeps a
//! fingerprint only. The files of TLS are read here too, for both ends. This crate opens no
//! connection and knows no protocol.

mod fingerprint;
mod machine;
pub mod pem;
mod record;
mod search;
mod token;

pub use fingerprint::Fingerprint;
pub use machine::names;
pub use pem::PemError;
pub use record::{Record, RecordError, Wire};
pub use search::{Found, Search, is_local};
pub use token::{Token, TokenError};

use std::path::PathBuf;

/// The user's data folder: `XDG_DATA_HOME`, else `~/.local/share`. A relative path counts for
/// nothing, as the XDG specification asks.
pub fn data_folder() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")))
}

/// Where coordinators of this user leave their records.
fn records_folder() -> Option<PathBuf> {
    data_folder().map(|data| data.join("qlora/coordinators"))
}
