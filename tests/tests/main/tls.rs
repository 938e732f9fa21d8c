//! TLS between the real programs: what is encrypted, who is trusted, and what is told of a
//! connection that is not made.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use qlora_tests::{Ctl, World, http, launch, wait_until};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// What `qlora-coordinator` prints with `args` and the state folder `state`.
fn prepared(state: &Path, args: &[&str]) -> String {
    let output = launch("qlora-coordinator")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .output()
        .expect("qlora-coordinator");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A world whose coordinator speaks TLS.
fn secured() -> World {
    World::prepared(|state| {
        prepared(state, &["init"]);
        Vec::new()
    })
}

/// One that asks workers for a certificate as well.
fn asking() -> World {
    World::prepared(|state| {
        prepared(state, &["init"]);
        let ca = text(&state.join("tls/ca.pem"));
        ["--tls-client-ca".into(), ca].into()
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn ca(world: &World) -> String {
    text(&world.path("state/tls/ca.pem"))
}

/// A call as from another machine, where no record is found: to `url`, with `ca`.
fn from_afar(world: &World, url: &str, ca: &str, args: &[&str]) -> Ctl {
    let home = text(&world.path("elsewhere"));
    let token = text(&world.path("state/token"));
    let own = ["--coordinator", url, "--token-file", &token, "--ca", ca];
    let env = [("HOME", home.as_str()), ("XDG_DATA_HOME", home.as_str())];
    world.ctl_with(&[args, &own].concat(), &env)
}

/// What is told of a call that comes to no connection.
fn refused(called: &Ctl) -> &str {
    assert_eq!(called.code, 4, "{}", called.stderr);
    assert!(called.stderr.contains("error[Q0412]"), "{}", called.stderr);
    &called.stderr
}

#[test]
fn init_tells_what_to_hand_to_whom_and_leaves_what_is_there() {
    let home = tempfile::tempdir().expect("a folder");
    let state = home.path().join("state");
    let said = prepared(&state, &["init", "--host", "gpu.example.com"]);
    for words in [
        "tls/ca.pem",
        "--ca FILE",
        "gpu.example.com",
        "--allow-host gpu.example.com",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let before = fs::read(state.join("tls/server.pem")).expect("a certificate");
    let again = launch("qlora-coordinator")
        .args(["init", "--state-dir"])
        .arg(&state)
        .output()
        .expect("qlora-coordinator");
    assert_eq!(again.status.code(), Some(2));
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(told.contains("error[Q0411]") && told.contains("is there already"));
    assert_eq!(
        fs::read(state.join("tls/server.pem")).expect("a certificate"),
        before
    );
}

#[test]
fn a_job_is_trained_under_tls_by_programs_near_and_far() {
    let mut world = secured();
    // On the coordinator's machine nothing has to be given.
    let near = world.ctl(&["jobs"]);
    assert_eq!(near.code, 0, "{}", near.stderr);
    let (url, ca) = (format!("https://{}", world.address), ca(&world));
    let _worker = world.worker_at(&url, "far", &["--ca", &ca]);
    let config = text(&world.config("training: {max_steps: 2}"));
    let submitted = from_afar(&world, &url, &ca, &["submit", &config]);
    assert_eq!(submitted.code, 0, "{}", submitted.stderr);
    let id = submitted.stdout.trim().parse().expect("a number");
    assert_eq!(world.ended(id)["state"], "succeeded");
}

#[test]
fn a_server_of_another_ca_is_told_no_token() {
    let world = secured();
    let other = tempfile::tempdir().expect("a folder");
    prepared(other.path(), &["init"]);
    let wrong = text(&other.path().join("tls/ca.pem"));
    let url = format!("https://{}", world.address);
    let called = from_afar(&world, &url, &wrong, &["jobs"]);
    let told = refused(&called);
    assert!(told.contains("a CA that is not trusted here") && told.contains("--ca FILE"));
    // A server that writes down what it is sent hears nothing of the call.
    let server = Impostor::new(Duration::days(30));
    let called = from_afar(&world, &server.url, &ca(&world), &["jobs"]);
    assert!(refused(&called).contains("a CA that is not trusted here"));
    assert_eq!(server.heard(), "");
}

#[test]
fn a_server_whose_certificate_has_expired_is_told_no_token() {
    let world = secured();
    let server = Impostor::new(Duration::days(-1));
    let own = text(&server.certificate);
    let called = from_afar(&world, &server.url, &own, &["jobs"]);
    assert!(refused(&called).contains("certificate has expired"));
    assert_eq!(server.heard(), "");
}

#[test]
fn a_certificate_is_for_its_names_alone() {
    let world = secured();
    let server = Impostor::at("127.0.0.2:0", Duration::days(30));
    let own = text(&server.certificate);
    let called = from_afar(&world, &server.url, &own, &["jobs"]);
    assert!(refused(&called).contains("not for the name `127.0.0.2`"));
    assert_eq!(server.heard(), "");
}

#[test]
fn where_one_end_speaks_tls_alone_the_way_out_is_told() {
    let world = secured();
    let url = format!("http://{}", world.address);
    let plain = world.ctl(&["jobs", "--coordinator", &url]);
    let told = refused(&plain);
    assert!(told.contains("the server speaks TLS") && told.contains("write https://"));
    let browser = http(&world.address, "GET", "/", &[], &[]);
    assert_eq!(browser.status, 400);
    assert!(browser.text().contains("write https:// before it"));
    let told = tls_to_a_plain_server();
    assert!(told.contains("does not speak TLS") && told.contains("write http://"));
}

/// What is told of a call under TLS to a coordinator that has none.
pub fn tls_to_a_plain_server() -> String {
    let world = World::new(&[]);
    let other = tempfile::tempdir().expect("a folder");
    prepared(other.path(), &["init"]);
    let url = format!("https://{}", world.address);
    let ca = text(&other.path().join("tls/ca.pem"));
    refused(&from_afar(&world, &url, &ca, &["jobs"])).to_owned()
}

#[test]
fn an_address_of_another_machine_says_whether_it_is_encrypted() {
    let called = launch("qlora-ctl")
        .args(["--coordinator", "192.0.2.1:7070", "jobs"])
        .output()
        .expect("qlora-ctl");
    assert_eq!(called.status.code(), Some(2));
    let told = String::from_utf8_lossy(&called.stderr).into_owned();
    assert!(told.contains("error[Q0402]"), "{told}");
    assert!(told.contains("https://192.0.2.1:7070") && told.contains("http://192.0.2.1:7070"));
}

#[test]
fn a_worker_shows_a_certificate_where_it_is_asked_for_one() {
    let mut world = asking();
    // People are let in by their token.
    let near = world.ctl(&["jobs"]);
    assert_eq!(near.code, 0, "{}", near.stderr);
    let (url, ca) = (format!("https://{}", world.address), ca(&world));
    let mut bare = world.worker_at(&url, "bare", &["--ca", &ca]);
    assert_eq!(bare.exit_code(), Some(5), "{}", bare.log());
    assert!(bare.log().contains("asks workers for a certificate"));
    prepared(&world.path("state"), &["certify", "gpu-1"]);
    let [certificate, key] =
        ["pem", "key"].map(|end| text(&world.path(&format!("state/tls/workers/gpu-1.{end}"))));
    let shown = ["--ca", &ca, "--cert", &certificate, "--key", &key];
    let _worker = world.worker_at(&url, "gpu-1", &shown);
    let id = world.submit(&world.config("training: {max_steps: 2}"), &[]);
    assert_eq!(world.ended(id)["state"], "succeeded");
}

#[test]
fn a_worker_whose_certificate_has_expired_is_told_so() {
    let mut world = asking();
    let tls = world.path("state/tls");
    let read = |name: &str| fs::read_to_string(tls.join(name)).expect(name);
    let own = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), own).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = OffsetDateTime::now_utc() - Duration::days(1);
    let old = params.signed_by(&key, &issuer).expect("a certificate");
    let (certificate, own) = (world.path("old.pem"), world.path("old.key"));
    fs::write(&certificate, old.pem()).expect("a file");
    fs::write(&own, key.serialize_pem()).expect("a file");
    fs::set_permissions(&own, Permissions::from_mode(0o600)).expect("a key of its owner's");
    let (url, ca) = (format!("https://{}", world.address), ca(&world));
    let (certificate, own) = (text(&certificate), text(&own));
    let shown = ["--ca", &ca, "--cert", &certificate, "--key", &own];
    let mut worker = world.worker_at(&url, "old", &shown);
    assert_eq!(worker.exit_code(), Some(4), "{}", worker.log());
    let log = worker.log();
    assert!(
        log.contains("Q0412") && log.contains("it has expired"),
        "{log}"
    );
}

#[test]
fn the_page_is_served_under_tls_and_its_cookie_stays_there() {
    let world = secured();
    let link = world.ctl(&["page"]).stdout;
    let path = link
        .trim()
        .strip_prefix(&format!("https://{}", world.address))
        .expect("a link to this coordinator");
    let entered = over_tls(&world, &format!("GET {path} HTTP/1.1\r\n"));
    assert!(entered.starts_with("HTTP/1.1 303 "), "{entered}");
    let cookie = entered
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    assert!(cookie.contains("; Secure"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    let page = over_tls(&world, &format!("GET / HTTP/1.1\r\nCookie: {pair}\r\n"));
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("<html"),
        "{page}"
    );
    let token = world.token();
    let scraped = over_tls(
        &world,
        &format!("GET /metrics HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"),
    );
    assert!(scraped.contains("qlora_"), "{scraped}");
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart() {
    let world = secured();
    let tls = world.path("state/tls");
    let before = shown(&world);
    assert_eq!(before, der(&tls.join("server.pem")));
    for name in ["server.pem", "server.key"] {
        fs::remove_file(tls.join(name)).expect("a file");
    }
    prepared(&world.path("state"), &["init"]);
    let pid = Pid::from_raw(world.coordinator.pid() as i32).expect("a process id");
    kill_process(pid, Signal::HUP).expect("a signal");
    wait_until("the new certificate", || {
        world
            .coordinator
            .log()
            .contains("was read again")
            .then_some(())
    });
    let after = shown(&world);
    assert_ne!(after, before);
    assert_eq!(after, der(&tls.join("server.pem")));
    assert_eq!(world.ctl(&["jobs"]).code, 0);
}

/// Programs of the machine, which were told nothing but the address, go on with another CA.
#[test]
fn a_new_ca_is_left_for_the_programs_of_the_machine() {
    let world = secured();
    assert_eq!(world.ctl(&["jobs"]).code, 0);
    fs::remove_dir_all(world.path("state/tls")).expect("a folder");
    prepared(&world.path("state"), &["init"]);
    let pid = Pid::from_raw(world.coordinator.pid() as i32).expect("a process id");
    kill_process(pid, Signal::HUP).expect("a signal");
    wait_until("the new certificate", || {
        let served = || shown(&world) == der(&world.path("state/tls/server.pem"));
        let is_read = world.coordinator.log().contains("was read again");
        (is_read && served()).then_some(())
    });
    wait_until("a call that trusts the new CA", || {
        (world.ctl(&["jobs"]).code == 0).then_some(())
    });
}

#[test]
fn a_hangup_does_not_end_a_coordinator_without_certificates() {
    let world = World::new(&[]);
    let pid = Pid::from_raw(world.coordinator.pid() as i32).expect("a process id");
    kill_process(pid, Signal::HUP).expect("a signal");
    wait_until("word of the signal", || {
        world.coordinator.log().contains("SIGHUP").then_some(())
    });
    assert_eq!(world.ctl(&["jobs"]).code, 0);
}

fn der(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

type Connected = StreamOwned<ClientConnection, TcpStream>;

/// A connection to the coordinator, after the handshake.
fn connected(world: &World) -> Connected {
    let mut roots = RootCertStore::empty();
    roots.add(der(Path::new(&ca(world)))).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(&world.address).expect("a connection");
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .expect("a handshake");
    }
    stream
}

/// The certificate that the coordinator shows.
fn shown(world: &World) -> CertificateDer<'static> {
    let stream = connected(world);
    let chain = stream.conn.peer_certificates().expect("a certificate");
    chain.first().expect("its own").clone().into_owned()
}

/// The answer to a request, whose first lines are `head`, over HTTP/1.1 and TLS.
fn over_tls(world: &World, head: &str) -> String {
    let mut stream = connected(world);
    let request = format!("{head}Host: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // The end of the connection without one of TLS: the answer's length says that it is whole.
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {}
        Err(e) => panic!("{e}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server with a certificate of its own for 127.0.0.1, which hears one client.
struct Impostor {
    url: String,
    certificate: PathBuf,
    hearing: JoinHandle<String>,
    _folder: TempDir,
}

impl Impostor {
    /// Its certificate ends in `left`.
    fn new(left: Duration) -> Self {
        Self::at("127.0.0.1:0", left)
    }

    fn at(address: &str, left: Duration) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a host");
        params.not_after = OffsetDateTime::now_utc() + left;
        let own = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = folder.path().join("own.pem");
        fs::write(&certificate, own.pem()).expect("a file");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind(address).expect("an address");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let hearing = thread::spawn(move || hear(&listener, config));
        Self {
            url,
            certificate,
            hearing,
            _folder: folder,
        }
    }

    /// What its client has said inside TLS, once it has gone.
    fn heard(self) -> String {
        self.hearing.join().expect("a server")
    }
}

/// Hears one client to its end. Who only looks whether somebody listens, and says nothing, is not
/// the one.
fn hear(listener: &TcpListener, config: ServerConfig) -> String {
    let stream = loop {
        let (stream, _) = listener.accept().expect("a client");
        if stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            break stream;
        }
    };
    let connection = ServerConnection::new(Arc::new(config)).expect("a server");
    let mut stream = StreamOwned::new(connection, stream);
    let mut said = Vec::new();
    // A client that does not trust the certificate breaks off here.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}
