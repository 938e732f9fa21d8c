//! Whom a caller trusts, and what it shows of itself, from the files that it was given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qlora_access::{PemError, pem};
use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;

/// What gRPC is spoken in.
pub const HTTP_2: &[u8] = b"h2";

/// The files for TLS that a person has named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates, in PEM, by which the coordinator is known; those of the system where none.
    pub ca: Option<PathBuf>,
    /// What this caller shows of itself, in PEM, and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    #[error("{0}")]
    File(#[from] PemError),
    #[error("{certificate} and {key} cannot be used together: {fault}")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        fault: rustls::Error,
    },
    #[error("{} was given without {}", if *has_certificate { "--cert" } else { "--key" }, if *has_certificate { "--key" } else { "--cert" })]
    Half { has_certificate: bool },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl TlsFileError {
    /// The way out.
    pub fn help(&self) -> String {
        let help = match self {
            Self::File(PemError::Exposed { path, .. }) => {
                return format!(
                    "others may have read it: have another one made with its certificate, or keep it with: chmod 600 {}",
                    path.display()
                );
            }
            Self::File(PemError::Read { .. }) => "name a file that this user can read",
            Self::File(PemError::Content { .. }) => {
                "copy ca.pem from the folder `tls` of the coordinator's state folder, and a certificate with its key as qlora-coordinator certify has made them"
            }
            Self::File(PemError::Version { .. }) => {
                "give one of version 3, as qlora-coordinator certify makes it"
            }
            Self::Pair { .. } => "name a certificate and the key that was made with it",
            Self::Half { .. } => "give both, --cert FILE and --key FILE",
            Self::Setup(_) => "give --ca FILE with ca.pem of the coordinator",
        };
        help.into()
    }
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a caller shows of itself, and whom it trusts where it was told.
pub struct Trust {
    shown: Option<Shown>,
    roots: Option<RootCertStore>,
}

impl Trust {
    /// # Errors
    /// A file cannot be used.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsFileError> {
        let shown = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => Some(shown(certificate, key)?),
            (None, None) => None,
            (certificate, _) => {
                return Err(TlsFileError::Half {
                    has_certificate: certificate.is_some(),
                });
            }
        };
        let roots = files.ca.as_deref().map(pem::roots).transpose()?;
        Ok(Self { shown, roots })
    }

    /// Whether a person has said whom to trust.
    pub fn names_roots(&self) -> bool {
        self.roots.is_some()
    }

    /// A configuration that trusts whom a person has named, else whom the system trusts.
    ///
    /// # Errors
    /// The system has no certificates that can be used.
    pub fn configured(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let builder = match &self.roots {
            Some(roots) => builder()?.with_root_certificates(roots.clone()),
            None => builder()?.with_platform_verifier()?,
        };
        self.finish(builder)
    }

    /// A configuration that trusts the certificates of `pem` and nobody else.
    ///
    /// # Errors
    /// `pem` holds no certificate that can be used.
    pub fn trusting(&self, pem: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|e| rustls::Error::General(e.to_string()))?;
            roots.add(certificate)?;
        }
        self.finish(builder()?.with_root_certificates(roots))
    }

    fn finish(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut config = match &self.shown {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Arc::new(config))
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

/// The certificate and key of a client, which are tried together here rather than at the first
/// connection.
fn shown(certificate: &Path, key: &Path) -> Result<Shown, TlsFileError> {
    let chain = pem::certificates(certificate)?;
    let own = pem::key(key)?;
    let pair = |fault| match PemError::version(certificate, &fault) {
        Some(known) => known.into(),
        None => TlsFileError::Pair {
            certificate: certificate.into(),
            key: key.into(),
            fault,
        },
    };
    builder()
        .map_err(TlsFileError::Setup)?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), own.clone_key())
        .map_err(pair)?;
    Ok((chain, own))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// As the coordinator judges its own.
    #[test]
    fn a_key_that_every_user_can_read_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (folder.path().join("w.pem"), folder.path().join("w.key"));
        let made = rcgen::generate_simple_self_signed(["w".to_owned()]).expect("a certificate");
        fs::write(&certificate, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let files = TlsFiles {
            ca: None,
            certificate: Some(certificate),
            key: Some(key.clone()),
        };
        for (mode, is_taken) in [(0o600, true), (0o640, true), (0o604, false), (0o666, false)] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).expect("a mode");
            let read = Trust::read(&files);
            assert_eq!(read.is_ok(), is_taken, "{mode:o}");
            if let Err(fault) = read {
                assert!(fault.to_string().contains("w.key"), "{fault}");
                assert!(fault.help().contains("chmod 600"), "{}", fault.help());
            }
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let (none, text) = (folder.path().join("none.pem"), folder.path().join("a.pem"));
        fs::write(&text, "no certificate\n").expect("a file");
        let of = |ca: Option<&PathBuf>, certificate: Option<&PathBuf>, key: Option<&PathBuf>| {
            let files = TlsFiles {
                ca: ca.cloned(),
                certificate: certificate.cloned(),
                key: key.cloned(),
            };
            Trust::read(&files).err().expect("a refusal")
        };
        for (fault, words) in [
            (of(Some(&none), None, None), "none.pem cannot be read"),
            (of(Some(&text), None, None), "a.pem holds no certificate"),
            (
                of(None, Some(&text), Some(&text)),
                "a.pem holds no certificate",
            ),
            (
                of(None, Some(&text), None),
                "--cert was given without --key",
            ),
            (
                of(None, None, Some(&text)),
                "--key was given without --cert",
            ),
        ] {
            assert!(fault.to_string().contains(words), "{fault}");
            assert!(!fault.help().is_empty());
        }
    }
}
