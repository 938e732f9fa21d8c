//! The files that TLS is served with, and what is made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qlora_access::{PemError, pem};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};

use super::error::TlsError;
use super::folder::Folder;

/// What callers may speak inside.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// From so long before its end on, a start warns of it.
const SOON: Duration = Duration::days(30);

/// Files that a person has named.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// A certificate and its key.
    pub server: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<PathBuf>,
}

/// The files that TLS is served with.
#[derive(Debug, Clone)]
pub struct Sources {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// The CA that has signed the certificate, where it is the coordinator's own.
    ca: Option<PathBuf>,
}

/// What the files came to.
pub struct Loaded {
    pub config: Arc<ServerConfig>,
    /// The certificates by which callers know this one, in PEM; empty where the system knows them.
    pub ca: String,
    /// What ends soon.
    pub warnings: Vec<String>,
}

impl Sources {
    /// What was given, else the certificate of the state folder. None where there is neither.
    ///
    /// # Errors
    /// Clients are to show certificates, or the state folder has a CA, and there is none to show them.
    pub fn find(given: Given, folder: &Folder) -> Result<Option<Self>, TlsError> {
        let client_ca = given.client_ca;
        if let Some((certificate, key)) = given.server {
            return Ok(Some(Self {
                certificate,
                key,
                client_ca,
                ca: None,
            }));
        }
        let own = folder.server();
        match (own.present(), client_ca) {
            (Some(_), client_ca) => Ok(Some(Self {
                certificate: own.certificate,
                key: own.key,
                client_ca,
                ca: Some(folder.ca().certificate),
            })),
            (None, Some(_)) => Err(TlsError::NoCertificate {
                folder: folder.state().into(),
            }),
            // Whoever has made a CA wants TLS: callers that trust it would be met in plain text.
            (None, None) if folder.ca().present().is_some() => Err(TlsError::NoServer {
                folder: folder.state().into(),
            }),
            (None, None) => Ok(None),
        }
    }

    /// Whether workers are asked for a certificate.
    pub fn asks_workers(&self) -> bool {
        self.client_ca.is_some()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used, or has expired.
    pub fn load(&self) -> Result<Loaded, TlsError> {
        let chain = pem::certificates(&self.certificate)?;
        let mut warnings = Vec::new();
        warnings.extend(lasting(&self.certificate, &chain)?);
        let ca = match &self.ca {
            Some(path) => {
                warnings.extend(lasting(path, &pem::certificates(path)?)?);
                pem::text(path)?
            }
            None => String::new(),
        };
        Ok(Loaded {
            config: Arc::new(self.config(chain)?),
            ca,
            warnings,
        })
    }

    fn config(&self, chain: Vec<CertificateDer<'static>>) -> Result<ServerConfig, TlsError> {
        let key = pem::key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match &self.client_ca {
            // Browsers and people show none: the doors hold workers to it.
            Some(path) => {
                let roots = Arc::new(pem::roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| PemError::of_a_ca(path, &e))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|fault| {
            match PemError::version(&self.certificate, &fault) {
                Some(known) => known.into(),
                None => TlsError::Pair {
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                    fault,
                },
            }
        })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Looks when the first certificate of `chain` ends, and gives what to say where that is soon.
///
/// # Errors
/// It has ended, or is none.
fn lasting(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Option<String>, TlsError> {
    let first = chain.first().map_or(&[][..], |der| der.as_ref());
    let (_, certificate) =
        x509_parser::parse_x509_certificate(first).map_err(|e| PemError::certificate(path, &e))?;
    let end = certificate.validity().not_after.to_datetime();
    let (day, now) = (end.date().to_string(), OffsetDateTime::now_utc());
    if end <= now {
        return Err(TlsError::Expired {
            path: path.into(),
            day,
        });
    }
    let warning = || {
        format!(
            "the certificate {} expires on {day}; make another one before, and send SIGHUP",
            path.display()
        )
    };
    Ok((end - now < SOON).then(warning))
}
