use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::routing::get;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{self, Folder, Given, Serving, Sources};

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
    server_with(bounds, None).await
}

/// As [`server`], under TLS where `tls` says so.
async fn server_with(bounds: Bounds, tls: Option<Configs>) -> Server {
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
    let serving = tokio::spawn(serve(listener, router, bounds, tls, stopped, NEVER));
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
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    wanted: &str,
) -> String {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .await
        .expect("a request");
    answer(stream, wanted).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
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

/// A server under TLS, and what a client needs to trust it.
async fn secured(bounds: Bounds) -> (Server, TlsConnector) {
    let state = tempfile::tempdir().expect("a folder");
    let folder = Folder::of(state.path());
    tls::init(&folder, &["localhost".into()]).expect("certificates");
    let sources = Sources::find(Given::default(), &folder).expect("no fault");
    let serving = Serving::start(sources.expect("sources")).expect("a configuration");
    let ca = std::fs::read(folder.ca().certificate).expect("a file");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&ca).expect("a certificate"))
        .expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server = server_with(bounds, Some(serving.configs())).await;
    (server, TlsConnector::from(Arc::new(config)))
}

#[tokio::test]
async fn requests_come_under_tls_to_the_name_of_the_certificate_alone() {
    let (server, connector) = secured(bounds(100, NEVER, NEVER)).await;
    let name = |name: &'static str| ServerName::try_from(name).expect("a name");
    let plain = connect(&server).await;
    let mut stream = connector
        .connect(name("localhost"), plain)
        .await
        .expect("a handshake");
    ask(&mut stream, "/", "hello").await;
    let plain = connect(&server).await;
    let fault = connector
        .connect(name("example.com"), plain)
        .await
        .expect_err("another name");
    assert!(fault.to_string().contains("example.com"), "{fault}");
}

#[tokio::test]
async fn who_speaks_without_tls_is_told_in_a_form_that_it_reads() {
    let (server, _) = secured(bounds(100, NEVER, NEVER)).await;
    let mut browser = connect(&server).await;
    let text = ask(&mut browser, "/", "before it").await;
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("https://"));
    ended(&mut browser).await;
    let mut program = connect(&server).await;
    program
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("a place");
    let mut alert = [0; 7];
    program.read_exact(&mut alert).await.expect("an alert");
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 10]);
}

#[tokio::test]
async fn a_handshake_that_is_not_ended_is_let_go_and_makes_room() {
    let (server, _) = secured(bounds(100, SOON, NEVER)).await;
    // Nothing, and the head of a message that does not come.
    for said in [b"".as_slice(), b"\x16\x03\x01\x02\x00"] {
        let mut stream = connect(&server).await;
        stream.write_all(said).await.expect("a place");
        ended(&mut stream).await;
    }
    let (server, connector) = secured(bounds(1, NEVER, NEVER)).await;
    let mut silent = connect(&server).await;
    silent.write_all(b"\x16").await.expect("a place");
    let plain = connect(&server).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, plain).await.expect("a handshake");
    ask(&mut stream, "/", "hello").await;
    ended(&mut silent).await;
}
