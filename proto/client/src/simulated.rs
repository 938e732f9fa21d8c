//! Connections of a simulation, in the place of those of the system.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;

use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Connects to a host and a port.
pub type Dial = fn(String, u16) -> Dialing;

/// What connects in the place of the system.
static REPLACED: OnceLock<Dial> = OnceLock::new();

/// Connects by `dial` from now on, in the whole process and without TLS. The first that is given
/// stays: a simulation gives it before anybody connects.
pub fn replace(dial: Dial) {
    let _ = REPLACED.set(dial);
}

/// A connection of the simulation, where there is one.
pub(crate) fn replaced(host: &str, port: u16) -> Option<Dialing> {
    REPLACED.get().map(|dial| dial(host.to_owned(), port))
}
