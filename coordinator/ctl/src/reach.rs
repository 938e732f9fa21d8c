//! Whether somebody is at the coordinator's address yet. A coordinator that the line before has
//! started takes a moment to listen, and one that stands still is told of before a call fails.
//!
//! What a call comes to in the end is a matter of `status.rs`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use qlora_client::{Address, several};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a coordinator on this machine may take until it listens.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// How long the first bytes of an answer may take.
const GREETING: Duration = Duration::from_secs(1);
/// What a client of HTTP/2 begins with: the preface, and settings that change nothing. Whoever
/// speaks it answers with settings of its own, whatever it is asked afterwards.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How the waiting for a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// Nobody waits for another machine.
    Elsewhere,
    NotAtAll,
    UntilItListened,
    InVain,
}

/// Waits while nothing listens at `address`, where that is on the loopback of this machine, and then
/// until `has_token` says that the token was left.
pub async fn await_listener(address: &str, has_token: impl Fn() -> bool) {
    wait(address, Instant::now() + PATIENCE, has_token).await;
}

async fn wait(address: &str, deadline: Instant, has_token: impl Fn() -> bool) -> Waited {
    let Some(addresses) = on_loopback(address) else {
        return Waited::Elsewhere;
    };
    let mut waited = Waited::NotAtAll;
    while are_refused(&addresses).await {
        if Instant::now() >= deadline {
            return Waited::InVain;
        }
        waited = Waited::UntilItListened;
        sleep(POLL).await;
    }
    // A coordinator leaves its token after it has begun to listen.
    while waited == Waited::UntilItListened && !has_token() && Instant::now() < deadline {
        sleep(POLL).await;
    }
    waited
}

/// Whether whoever is at `address` does not greet as a server does. One that refuses is not silent.
pub async fn is_silent(address: &str) -> bool {
    match Address::parse(address) {
        Ok(address) => timeout(GREETING, greeted(&address)).await.is_err(),
        Err(_) => false,
    }
}

async fn greeted(address: &Address) -> io::Result<()> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.write_all(HELLO).await?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await?;
    Ok(())
}

/// The addresses that `address` stands for, where these are of this machine alone.
fn on_loopback(address: &str) -> Option<Vec<SocketAddr>> {
    let parsed = several(address).map(|one| Address::parse(one).ok().filter(Address::is_loopback));
    let all: Option<Vec<Address>> = parsed.collect();
    let places = all?
        .into_iter()
        .map(|one| (one.host, one.port).to_socket_addrs());
    let found: Result<Vec<_>, _> = places.collect();
    Some(found.ok()?.into_iter().flatten().collect())
}

/// Whether nobody listens at any of `addresses`.
async fn are_refused(addresses: &[SocketAddr]) -> bool {
    for address in addresses {
        let refused = timeout(POLL, TcpStream::connect(address))
            .await
            .is_ok_and(|stream| {
                stream.is_err_and(|fault| fault.kind() == ErrorKind::ConnectionRefused)
            });
        if !refused {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use tokio::net::TcpSocket;

    use super::*;

    /// A port of its own where nothing listens yet, and its address.
    fn held() -> (TcpSocket, String) {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("a port");
        let address = socket.local_addr().expect("an address").to_string();
        (socket, address)
    }

    #[tokio::test]
    async fn a_listener_of_this_machine_is_waited_for_and_then_its_token() {
        let (socket, address) = held();
        let never = Instant::now() + Duration::from_secs(3600);
        let asked = Cell::new(0);
        let has_token = || {
            asked.set(asked.get() + 1);
            asked.get() > 2
        };
        let listening = async {
            sleep(2 * POLL).await;
            socket.listen(1).expect("a listener")
        };
        let (waited, _listener) = tokio::join!(wait(&address, never, has_token), listening);
        assert_eq!((waited, asked.get()), (Waited::UntilItListened, 3));
        let at_once = wait(&address, never, || false).await;
        assert_eq!(at_once, Waited::NotAtAll);
    }

    #[tokio::test]
    async fn nobody_waits_for_another_machine_or_forever() {
        let (_socket, address) = held();
        let now = Instant::now();
        assert_eq!(wait(&address, now, || false).await, Waited::InVain);
        for address in ["192.0.2.1:7070", "http://192.0.2.1"] {
            let waited = wait(address, now, || false).await;
            assert_eq!(waited, Waited::Elsewhere, "{address}");
        }
    }

    #[test]
    fn only_this_machine_is_waited_for() {
        assert!(on_loopback("[::1]:7070").is_some() && on_loopback("localhost:1").is_some());
        assert!(on_loopback("https://127.0.0.1:1,[::1]:2").is_some_and(|found| found.len() == 2));
        for elsewhere in ["10.0.0.5:7070", "host:1", "127.0.0.1:1,host:1", "127.0.0.1"] {
            assert!(on_loopback(elsewhere).is_none(), "{elsewhere}");
        }
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
        let (_socket, address) = held();
        assert!(!is_silent(&address).await);
    }
}
