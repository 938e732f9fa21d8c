use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

/// Longer than any test may take: what is bounded by it must not happen.
const NEVER: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_millis(100);

struct Server {
    address: SocketAddr,
    /// Lets `/held` answer.
    go: Arc<Notify>,
    /// Told when `/held` has begun.
    held: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// `/known` makes its connection known; `/held` answers when it is told to.
async fn server(bounds: Bounds) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let (go, held) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (go.clone(), held.clone());
    let known = |Extension(connection): Extension<Arc<Connection>>| async move {
        connection.trust();
        "known"
    };
    let wait = move || {
        let (go, held) = signals.clone();
        async move {
            held.notify_one();
            go.notified().await;
            "held"
        }
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/known", get(known))
        .route("/held", get(wait));
    let (stop, stopped) = oneshot::channel();
    let stopped = async move { drop(stopped.await) };
    let serving = tokio::spawn(serve(listener, router, bounds, stopped, NEVER));
    Server {
        address,
        go,
        held,
        stop: Some(stop),
        serving,
    }
}

fn bounds(connections: usize, stranger: Duration, known: Duration) -> Bounds {
    Bounds {
        connections,
        stranger,
        known,
        ping: NEVER,
        farewell: SOON,
    }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address)
        .await
        .expect("a connection")
}

/// Asks for `path` and gives the answer's text as far as it has come with `wanted` in it.
async fn ask(stream: &mut TcpStream, path: &str, wanted: &str) -> String {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .await
        .expect("a request");
    answer(stream, wanted).await
}

async fn answer(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(wanted) {
        let read = stream.read(&mut buffer).await.expect("an answer");
        assert!(read > 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    text
}

/// Waits for the end of a connection.
async fn ended(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn many_connections_that_only_stand_about_lock_nobody_out() {
    let server = server(bounds(16, NEVER, NEVER)).await;
    let mut known = connect(&server).await;
    ask(&mut known, "/known", "known").await;
    let mut idle = Vec::new();
    for i in 0..300 {
        let mut stream = connect(&server).await;
        // Some say nothing, some begin a head and do not end it, some speak HTTP/2 and ask for
        // nothing.
        let said: &[u8] = [
            b"".as_slice(),
            b"GET / HTTP/1.1\r\nHost:",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ][i % 3];
        stream.write_all(said).await.expect("a place");
        idle.push(stream);
        if i % 50 == 49 {
            ask(&mut connect(&server).await, "/", "hello").await;
        }
    }
    ask(&mut known, "/", "hello").await;
    // Those that came first made room.
    ended(&mut idle[0]).await;
}

#[tokio::test]
async fn where_known_peers_hold_every_place_others_wait_until_one_goes() {
    let server = server(bounds(2, NEVER, NEVER)).await;
    let (mut one, mut two) = (connect(&server).await, connect(&server).await);
    ask(&mut one, "/known", "known").await;
    ask(&mut two, "/known", "known").await;
    let mut third = connect(&server).await;
    third
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("room in the queue");
    ask(&mut one, "/", "hello").await;
    ask(&mut two, "/", "hello").await;
    drop(one);
    answer(&mut third, "hello").await;
}

#[tokio::test]
async fn a_stranger_keeps_its_place_until_somebody_else_waits_for_one() {
    let server = server(bounds(2, NEVER, NEVER)).await;
    let (mut one, mut two) = (connect(&server).await, connect(&server).await);
    ask(&mut two, "/", "hello").await;
    ask(&mut one, "/", "hello").await;
    let mut three = connect(&server).await;
    ask(&mut three, "/", "hello").await;
    ended(&mut one).await;
    ask(&mut two, "/", "hello").await;
}

#[tokio::test]
async fn a_stranger_that_asks_for_nothing_is_let_go_whatever_it_has_begun() {
    let server = server(bounds(100, SOON, NEVER)).await;
    for said in [
        b"".as_slice(),
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut stream = connect(&server).await;
        stream.write_all(said).await.expect("a place");
        ended(&mut stream).await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_not_waited_for() {
    let server = server(bounds(100, SOON, NEVER)).await;
    let mut stream = connect(&server).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\n")
        .await
        .expect("a place");
    // Each line comes well within the bound; all of them do not.
    loop {
        tokio::time::sleep(SOON / 10).await;
        if stream.write_all(b"A: b\r\n").await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_call_that_is_held_outlives_every_idle_bound() {
    let server = server(bounds(100, SOON, SOON)).await;
    for path in ["/", "/known"] {
        let mut stream = connect(&server).await;
        ask(&mut stream, path, "200 OK").await;
        stream
            .write_all(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .expect("a request");
        server.held.notified().await;
        // Another connection of the same kind is let go twice meanwhile.
        for _ in 0..2 {
            let mut other = connect(&server).await;
            ask(&mut other, path, "200 OK").await;
            ended(&mut other).await;
        }
        server.go.notify_one();
        answer(&mut stream, "held").await;
        ended(&mut stream).await;
    }
}

#[tokio::test]
async fn an_http_2_peer_that_vanished_is_dropped() {
    let server = server(Bounds {
        ping: SOON,
        ..bounds(100, NEVER, NEVER)
    })
    .await;
    let mut stream = connect(&server).await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("a place");
    // It answers no ping, as a machine that lost its network.
    ended(&mut stream).await;
}

#[tokio::test]
async fn a_stop_lets_calls_under_way_end_and_takes_no_more() {
    let mut server = server(bounds(100, NEVER, NEVER)).await;
    let mut idle = connect(&server).await;
    ask(&mut idle, "/", "hello").await;
    let mut busy = connect(&server).await;
    busy.write_all(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("a request");
    server.held.notified().await;
    drop(server.stop.take());
    ended(&mut idle).await;
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "it still listens"
    );
    server.go.notify_one();
    answer(&mut busy, "held").await;
    server.serving.await.expect("an end");
}
