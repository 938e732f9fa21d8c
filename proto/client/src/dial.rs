//! Opens a TCP connection to a name that may have several addresses, some of which lead nowhere.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an address is alone in being tried, as RFC 8305 has it.
const ALONE: Duration = Duration::from_millis(250);

/// Connects to the first address of `host` that answers.
///
/// # Errors
/// The name has no address, or none of its addresses takes the connection.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = first(lookup_host((host, port)).await?).await?;
    // Small calls must not wait for the acknowledgment of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tries `addresses` in their order: the next one once the one before has failed, or has been silent
/// for a moment; those before go on meanwhile.
async fn first(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    // Whatever is under way ends with the set.
    let mut tried = JoinSet::new();
    let mut fault = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let mut next = addresses.next();
    while next.is_some() || !tried.is_empty() {
        if let Some(address) = next.take() {
            tried.spawn(TcpStream::connect(address));
            next = addresses.next();
        }
        tokio::select! {
            Some(ended) = tried.join_next() => match ended.map_err(io::Error::other)? {
                Ok(stream) => return Ok(stream),
                Err(e) => fault = e,
            },
            () = sleep(ALONE), if next.is_some() => {}
        }
    }
    Err(fault)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// An address that leaves calls without an answer, as long as what it comes with is held: its
    /// listener has no room for a further connection.
    async fn silent() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("an address");
        let listener = socket.listen(1).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut held = Vec::new();
        while let Ok(taken) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await
        {
            held.push(taken.expect("a connection"));
        }
        (address, (listener, held))
    }

    /// One where nobody listens.
    async fn closed() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        listener.local_addr().expect("an address")
    }

    #[tokio::test]
    async fn an_address_that_is_silent_or_closed_keeps_nobody_from_the_next() {
        let (silent, _held) = silent().await;
        let good = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let there = good.local_addr().expect("an address");
        for addresses in [
            vec![there],
            vec![silent, there],
            vec![closed().await, silent, there],
        ] {
            let connected = timeout(LONG, first(addresses.clone().into_iter())).await;
            let stream = connected.expect("an end").expect("a connection");
            let peer = stream.peer_addr().expect("an address");
            assert_eq!(peer, there, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn where_nobody_answers_the_last_fault_is_told() {
        let addresses = [closed().await, closed().await];
        let fault = first(addresses.into_iter()).await.expect_err("nobody");
        assert_eq!(fault.kind(), ErrorKind::ConnectionRefused);
        let fault = first([].into_iter()).await.expect_err("no address");
        assert_eq!(fault.kind(), ErrorKind::NotFound);
    }
}
