//! The address that this coordinator has bound, and how programs learn of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qlora_access::{Record, Token, Wire};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::error::StartError;

/// A bound address, from binding it to the end of the program.
pub struct BoundAddress {
    pub address: SocketAddr,
    listener: std::net::TcpListener,
    address_file: Option<PathBuf>,
    /// Programs of this user on this machine find the token by it.
    record: Option<Kept>,
}

/// A record that says how the coordinator speaks now, until this is dropped.
pub type Kept = Arc<Mutex<Record>>;

impl BoundAddress {
    /// Binds `listen`, and leaves the token of `token_file` before the address is known to anybody:
    /// whoever reads it finds the token.
    pub async fn bind(
        listen: SocketAddr,
        address_file: Option<PathBuf>,
        token: &Token,
        wires: watch::Receiver<Wire>,
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
            record: leave_record(address, token, wires, token_file),
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
    pub fn last_listener(self) -> Result<(TcpListener, Option<Kept>), StartError> {
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
fn leave_record(
    address: SocketAddr,
    token: &Token,
    mut wires: watch::Receiver<Wire>,
    file: &Path,
) -> Option<Kept> {
    let wire = wires.borrow_and_update().clone();
    let left = Record::leave(address, token, &wire)
        .inspect_err(|e| {
            tracing::warn!(
                "programs on this machine will not find the token by themselves ({e}); give them --token-file {}",
                file.display()
            );
        })
        .ok()?;
    let kept = Arc::new(Mutex::new(left));
    let record = Arc::downgrade(&kept);
    tokio::spawn(async move {
        while wires.changed().await.is_ok() {
            let Some(record) = record.upgrade() else {
                return;
            };
            let wire = wires.borrow_and_update().clone();
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(e) = record.change(&wire) {
                tracing::warn!(
                    "programs on this machine do not learn of the new certificates ({e}); give them --ca"
                );
            }
        }
    });
    Some(kept)
}
