//! A way to the server of S3 on which requests can be held.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast, watch};

/// Passes requests on one by one, but for those that are held.
pub struct Holding {
    pub address: String,
    /// With what the first line of a request begins that is held.
    held: watch::Sender<Option<&'static str>>,
    came: Arc<Notify>,
    /// The heads of requests that were answered.
    passed: broadcast::Sender<String>,
}

impl Holding {
    /// To the server at `address`.
    pub async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address");
        let server = address.trim_start_matches("http://").to_owned();
        let (held, came) = (watch::Sender::new(None), Arc::<Notify>::default());
        let passed = broadcast::Sender::new(64);
        let (told, tell, answered) = (held.subscribe(), came.clone(), passed.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, told) = (server.clone(), told.clone());
                let (tell, answered) = (tell.clone(), answered.clone());
                tokio::spawn(async move {
                    if let Some(head) = pass(stream, server, told, tell).await {
                        // Few tests wait for it.
                        let _ = answered.send(head);
                    }
                });
            }
        });
        Self {
            address: format!("http://{own}"),
            held,
            came,
            passed,
        }
    }

    /// From now on requests that begin with `line` are held.
    pub fn hold(&self, line: &'static str) {
        self.held.send_replace(Some(line));
    }

    /// Waits until a request is held.
    pub async fn holds(&self) {
        self.came.notified().await;
    }

    /// Waits until a request that begins with `line` has been answered, from this call on.
    pub fn passes(&self, line: &'static str) -> impl Future<Output = ()> + use<> {
        let mut passed = self.passed.subscribe();
        async move { while !passed.recv().await.expect("a request").starts_with(line) {} }
    }

    /// Lets requests pass again. Those that were held have come to nothing.
    pub fn let_pass(&self) {
        self.held.send_replace(None);
    }
}

/// One request, and the answer. The head of the request; none where it came to nothing.
async fn pass(
    mut stream: TcpStream,
    server: String,
    mut held: watch::Receiver<Option<&'static str>>,
    came: Arc<Notify>,
) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("a head");
    let is_held = held.borrow().is_some_and(|line| head.starts_with(line));
    if is_held {
        came.notify_one();
        // The connection ends without an answer.
        let _ = held.wait_for(Option::is_none).await;
        return None;
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().expect("a length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let mut onward = TcpStream::connect(server).await.expect("a server");
    let closing = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let request = [closing.as_bytes(), &body].concat();
    onward.write_all(&request).await.expect("a request");
    let mut answer = Vec::new();
    onward.read_to_end(&mut answer).await.expect("an answer");
    // Who has gone away meanwhile needs no answer.
    let _ = stream.write_all(&answer).await;
    Some(head)
}
