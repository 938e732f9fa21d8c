//! Whom a caller trusts, and what it shows of itself, from the files that it was given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no {what} in PEM{}", told(.fault))]
    Content {
        path: PathBuf,
        what: &'static str,
        fault: Option<String>,
    },
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

fn told(fault: &Option<String>) -> String {
    fault
        .as_ref()
        .map(|fault| format!(": {fault}"))
        .unwrap_or_default()
}

impl TlsFileError {
    /// The way out.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } => "name a file that this user can read",
            Self::Content { .. } => {
                "copy ca.pem from the folder `tls` of the coordinator's state folder, and a certificate with its key as qlora-coordinator certify has made them"
            }
            Self::Pair { .. } => "name a certificate and the key that was made with it",
            Self::Half { .. } => "give both, --cert FILE and --key FILE",
            Self::Setup(_) => "give --ca FILE with ca.pem of the coordinator",
        }
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
        let roots = files.ca.as_deref().map(roots).transpose()?;
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

fn roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| content(path, "certificate of a CA", Some(e.to_string())))?;
    }
    Ok(roots)
}

/// The certificate and key of a client, which are tried together here rather than at the first
/// connection.
fn shown(certificate: &Path, key: &Path) -> Result<Shown, TlsFileError> {
    let chain = certificates(certificate)?;
    let own = PrivateKeyDer::from_pem_slice(&bytes(key)?)
        .map_err(|e| content(key, "private key", Some(e.to_string())))?;
    let pair = |fault| TlsFileError::Pair {
        certificate: certificate.into(),
        key: key.into(),
        fault,
    };
    builder()
        .map_err(TlsFileError::Setup)?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), own.clone_key())
        .map_err(pair)?;
    Ok((chain, own))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    const WHAT: &str = "certificate";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    let found = found.map_err(|e| content(path, WHAT, Some(e.to_string())))?;
    if found.is_empty() {
        return Err(content(path, WHAT, None));
    }
    Ok(found)
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    fs::read(path).map_err(|source| TlsFileError::Read {
        path: path.into(),
        source,
    })
}

fn content(path: &Path, what: &'static str, fault: Option<String>) -> TlsFileError {
    TlsFileError::Content {
        path: path.into(),
        what,
        fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
