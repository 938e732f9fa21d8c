//! Where connections come from: sockets of the system, or those of a simulation in their place.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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

/// A connection of the system.
pub(crate) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Small calls must not wait for the acknowledgment of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}
