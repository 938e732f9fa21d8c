//! TLS 1.3 between two processes of one attempt, which share a secret that the coordinator handed out.
//!
//! The secret is the seed of an Ed25519 key (RFC 8032), and both ends have that key as theirs: each
//! shows it as a raw public key (RFC 7250) and takes nobody who shows another. There is no authority
//! and no name; whoever knows the secret belongs to the attempt. Keys of the traffic are fresh for
//! every connection, so that a secret that leaks later opens nothing that was recorded.
//!
//! What passes through a connection is not known here.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{RecvFlags, recv};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, ServerConfig, ServerConnection, SignatureScheme,
};

pub type Secret = [u8; 32];

/// What precedes the seed of an Ed25519 key in its PKCS #8 form (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Both ends of the connections of one attempt.
#[derive(Debug, Clone)]
pub struct Ends {
    first: Arc<ServerConfig>,
    other: Arc<ClientConfig>,
}

impl Ends {
    /// # Errors
    /// Where the cryptography of this program does not do what this module asks of it.
    pub fn new(secret: &Secret) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivatePkcs8KeyDer::from([&PKCS8[..], secret].concat());
        let key = ring::sign::any_eddsa_type(&key).map_err(Error::other)?;
        let public = key
            .public_key()
            .ok_or_else(|| Error::other("an Ed25519 key without a public part"))?
            .into_owned();
        let shown = CertificateDer::from(public.to_vec());
        let shown = Arc::new(CertifiedKey::new(vec![shown], key));
        let same = Arc::new(Same::new(public, &provider));
        let first = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::other)?
            .with_client_cert_verifier(same.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                shown.clone(),
            )));
        let other = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(same)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown)));
        Ok(Self {
            first: Arc::new(without_tickets(first)),
            other: Arc::new(other),
        })
    }

    /// The first one's end of a connection; `stream` bounds the time that agreeing on keys takes.
    ///
    /// # Errors
    /// As [`Self::other`].
    pub fn first(&self, stream: &mut (impl Read + Write)) -> Result<Connection> {
        let end = ServerConnection::new(self.first.clone()).map_err(Error::other)?;
        agreed(end.into(), stream)
    }

    /// The end of one who connects to the first.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] where who answers does not have the secret; what `stream`
    /// says otherwise.
    pub fn other(&self, stream: &mut (impl Read + Write)) -> Result<Connection> {
        // Nobody looks at the name: the key says who it is.
        let name = ServerName::try_from("first").map_err(Error::other)?;
        let end = ClientConnection::new(self.other.clone(), name).map_err(Error::other)?;
        agreed(end.into(), stream)
    }
}

/// No connection of an attempt is taken up again, and so nobody is given the means to.
fn without_tickets(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config
}

fn agreed(mut end: Connection, stream: &mut (impl Read + Write)) -> Result<Connection> {
    while end.is_handshaking() {
        end.complete_io(stream).map_err(of_a_stranger)?;
    }
    Ok(end)
}

/// `e`, said of the other end where it speaks no TLS or has another key.
fn of_a_stranger(e: Error) -> Error {
    match e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        true => Error::new(
            ErrorKind::PermissionDenied,
            format!("the other end does not know the secret of this attempt ({e})"),
        ),
        false => e,
    }
}

/// Takes who has the key that this end has, and nobody else.
#[derive(Debug)]
struct Same {
    key: SubjectPublicKeyInfoDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Same {
    fn new(key: SubjectPublicKeyInfoDer<'static>, provider: &CryptoProvider) -> Self {
        Self {
            key,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn is_shown(&self, shown: &CertificateDer<'_>) -> std::result::Result<(), rustls::Error> {
        match shown.as_ref() == self.key.as_ref() {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// Whoever shows the key has its secret part too.
    fn is_held(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(message, &self.key, signed, &self.algorithms)
    }
}

impl ServerCertVerifier for Same {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        self.is_shown(shown)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.is_held(message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Same {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        self.is_shown(shown)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.is_held(message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What is read and written through the `end` of a connection that passes over `stream`.
pub struct Words<'a, S> {
    pub end: &'a mut Connection,
    pub stream: &'a mut S,
}

impl<S: Read + Write> Read for Words<'_, S> {
    fn read(&mut self, words: &mut [u8]) -> Result<usize> {
        loop {
            match self.end.reader().read(words) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.end.complete_io(self.stream)?;
        }
    }
}

impl<S: Read + Write> Write for Words<'_, S> {
    fn write(&mut self, words: &[u8]) -> Result<usize> {
        let taken = self.end.writer().write(words)?;
        while self.end.wants_write() {
            self.end.write_tls(self.stream)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.flush()
    }
}

/// A connection whose both ends know each other.
#[derive(Debug)]
pub struct Channel {
    stream: TcpStream,
    end: Mutex<Connection>,
}

impl Channel {
    pub fn new(stream: TcpStream, end: Connection) -> Self {
        Self {
            stream,
            end: Mutex::new(end),
        }
    }

    /// Does `work` with what is read and written here.
    fn with<T>(&self, work: impl FnOnce(Words<'_, &TcpStream>) -> T) -> T {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        work(Words {
            end: &mut end,
            stream: &mut &self.stream,
        })
    }

    /// Whether the next words that arrived are `words`, which were written at once and alone.
    /// Waits for nothing and takes nothing away; words that have not arrived are not these.
    pub fn is_next(&self, words: &[u8]) -> bool {
        // Who holds the end waits for the next words itself.
        let Ok(mut end) = self.end.try_lock() else {
            return false;
        };
        loop {
            match end.reader().fill_buf() {
                Ok(next) => return next == words,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            // A connection that broke is noticed by whoever waits for words.
            let mut arrived = Arrived(&self.stream);
            let more = matches!(end.read_tls(&mut arrived), Ok(bytes) if bytes > 0);
            if !more || end.process_new_packets().is_err() {
                return false;
            }
        }
    }
}

impl Read for &Channel {
    fn read(&mut self, words: &mut [u8]) -> Result<usize> {
        self.with(|mut here| here.read(words))
    }
}

impl Write for &Channel {
    fn write(&mut self, words: &[u8]) -> Result<usize> {
        self.with(|mut here| here.write(words))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What has arrived of a stream, and no waiting for more.
struct Arrived<'a>(&'a TcpStream);

impl Read for Arrived<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let (read, _) = recv(self.0, bytes, RecvFlags::DONTWAIT)?;
        Ok(read)
    }
}
