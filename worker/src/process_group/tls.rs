//! TLS 1.3 between two processes of one attempt, which share a secret that the coordinator handed out.
//!
//! The secret is the seed of an Ed25519 key (RFC 8032), and both ends have that key as theirs: each
//! shows it as a raw public key (RFC 7250) and takes nobody who shows another. There is no authority
//! and no name; whoever knows the secret belongs to the attempt. Keys of the traffic are fresh for
//! every connection, so that a secret that leaks later opens nothing that was recorded.
//!
//! What passes through a connection is in `channel`.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};

pub type Secret = [u8; 32];

/// What precedes the seed of an Ed25519 key in its PKCS #8 form (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What a signature of TLS 1.2 is answered with, which both ends offer to nobody.
const TLS12: PeerIncompatible = PeerIncompatible::Tls12NotOfferedOrEnabled;

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
        match end.complete_io(stream) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => drop(done.map_err(of_a_stranger)?),
        }
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12.into())
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12.into())
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
