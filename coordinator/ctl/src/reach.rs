//! Whether somebody is at the coordinator's address yet. A coordinator that the line before has
//! started takes a moment to listen, and one that stands still is told of before a call fails.
//!
//! What a call comes to in the end is a matter of `status.rs`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a coordinator on this machine may take until it listens.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// How long the first bytes of an answer may take.
const GREETING: Duration = Duration::from_secs(1);
/// What a client of HTTP/2 begins with: the preface, and settings that change nothing. Whoever
/// speaks it answers with settings of its own, whatever it is asked afterwards.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Waits while nothing listens at `address`, where that is on the loopback of this machine. It
/// blocks, since nothing else can be done meanwhile.
pub fn await_listener(address: &str) {
    let Some(addresses) = on_loopback(address) else {
        return;
    };
    let deadline = Instant::now() + PATIENCE;
    let mut has_waited = false;
    while addresses.iter().all(is_refused) && Instant::now() < deadline {
        has_waited = true;
        thread::sleep(POLL);
    }
    if has_waited {
        // A coordinator leaves its token right after it has begun to listen.
        thread::sleep(POLL);
    }
}

/// Whether whoever is at `address` does not greet as a server does. One that refuses is not silent.
pub async fn is_silent(address: &str) -> bool {
    let greeted = tokio::time::timeout(GREETING, greeted(&host_and_port(address))).await;
    greeted.is_err()
}

async fn greeted(address: &str) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(HELLO).await?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await?;
    Ok(())
}

/// `address`, which may be a URL, as HOST:PORT.
fn host_and_port(address: &str) -> String {
    let plain = address
        .split_once("://")
        .map_or(address, |(_, behind)| behind);
    let plain = plain.split('/').next().unwrap_or(plain);
    let has_port = plain
        .rsplit(']')
        .next()
        .is_some_and(|end| end.contains(':'));
    if has_port {
        plain.to_owned()
    } else {
        format!("{plain}:80")
    }
}

/// The addresses that `address` stands for, where these are of this machine alone.
fn on_loopback(address: &str) -> Option<Vec<SocketAddr>> {
    let plain = host_and_port(address);
    let (host, _) = plain.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Result<IpAddr, _> = host.parse();
    if host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback()) {
        return None;
    }
    Some(plain.to_socket_addrs().ok()?.collect())
}

fn is_refused(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, POLL)
        .is_err_and(|fault| fault.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// An address where nothing listens.
    fn free() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    }

    #[test]
    fn a_listener_of_this_machine_is_waited_for_and_one_of_another_is_not() {
        let address = free();
        let started = Instant::now();
        let listening = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            let listener = TcpListener::bind(address).expect("the port");
            thread::sleep(PATIENCE);
            drop(listener);
        });
        await_listener(&address.to_string());
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_millis(250) && waited < PATIENCE,
            "{waited:?}"
        );
        listening.join().expect("a listener");
        let started = Instant::now();
        await_listener("192.0.2.1:7070");
        await_listener("http://192.0.2.1");
        assert!(started.elapsed() < POLL);
    }

    #[test]
    fn addresses_and_urls_name_a_host_and_a_port() {
        for (address, wanted) in [
            ("127.0.0.1:7070", "127.0.0.1:7070"),
            ("http://host:1/path", "host:1"),
            ("http://proxy", "proxy:80"),
            ("[::1]:7070", "[::1]:7070"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(host_and_port(address), wanted);
        }
        assert!(on_loopback("[::1]:7070").is_some() && on_loopback("localhost:1").is_some());
        assert!(on_loopback("10.0.0.5:7070").is_none() && on_loopback("host:1").is_none());
    }

    #[tokio::test]
    async fn who_accepts_and_does_not_greet_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        assert!(is_silent(&address).await);
        // The connection of before waits in the queue.
        let answering = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let greeting = stream.and_then(|mut stream| stream.write_all(b"\0"));
                drop(greeting);
            }
        });
        assert!(!is_silent(&address).await);
        answering.join().expect("an answer");
        assert!(!is_silent(&free().to_string()).await);
    }
}
