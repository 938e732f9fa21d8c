//! The address that this coordinator has bound, and how programs learn of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use qlora_access::{Record, Token, Wire};
use tokio::net::TcpListener;

use crate::error::StartError;

/// A bound address, from binding it to the end of the program.
pub struct BoundAddress {
    pub address: SocketAddr,
    listener: std::net::TcpListener,
    address_file: Option<PathBuf>,
    /// Programs of this user on this machine find the token by it.
    record: Option<Record>,
}

impl BoundAddress {
    /// Binds `listen`, and leaves the token of `token_file` before the address is known to anybody:
    /// whoever reads it finds the token.
    pub async fn bind(
        listen: SocketAddr,
        address_file: Option<PathBuf>,
        token: &Token,
        wire: &Wire,
        token_file: &Path,
    ) -> Result<Self, StartError> {
        let bound = TcpListener::bind(listen)
            .await
            .map_err(|source| StartError::Bind {
                address: listen,
                source,
            })?;
        let address = bound.local_addr().map_err(StartError::Serve)?;
        Ok(Self {
            address,
            listener: bound.into_std().map_err(StartError::Serve)?,
            address_file,
            record: leave_record(address, token, wire, token_file),
        })
    }

    /// Takes connections until another listener of this address does. Those that nobody has taken yet
    /// wait for that one.
    pub fn listener(&self) -> Result<TcpListener, StartError> {
        let another = self.listener.try_clone().and_then(TcpListener::from_std);
        let listener = another.map_err(StartError::Serve)?;
        self.tell()?;
        Ok(listener)
    }

    /// Takes connections for good: once the listener is dropped, nobody connects any more. The
    /// record is to be kept as long.
    pub fn last_listener(self) -> Result<(TcpListener, Option<Record>), StartError> {
        self.tell()?;
        let listener = TcpListener::from_std(self.listener).map_err(StartError::Serve)?;
        Ok((listener, self.record))
    }

    /// Tells the address to whoever waits for its file.
    fn tell(&self) -> Result<(), StartError> {
        let Some(path) = &self.address_file else {
            return Ok(());
        };
        let written = std::fs::write(path, self.address.to_string());
        written.map_err(|source| StartError::AddressFile {
            path: path.clone(),
            source,
        })
    }
}

/// Leaves the token for programs of this user on this machine. Without it everything works for who
/// is given the token.
fn leave_record(address: SocketAddr, token: &Token, wire: &Wire, file: &Path) -> Option<Record> {
    Record::leave(address, token, wire)
        .inspect_err(|e| {
            tracing::warn!(
                "programs on this machine will not find the token by themselves ({e}); give them --token-file {}",
                file.display()
            );
        })
        .ok()
}
