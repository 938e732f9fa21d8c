//! Files of TLS in PEM: the same are served by a coordinator and shown or trusted by its callers, and
//! are judged alike at both ends.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, RootCertStore};

use crate::token::is_exposed;

/// Bytes of a file at the most; those of all CAs of a system take a tenth of it.
const LARGEST: u64 = 4 << 20;

const CERTIFICATE: &str = "certificate";
const OF_A_CA: &str = "certificate of a CA";
const KEY: &str = "private key";

/// Why a file cannot be used. The way out depends on whose file it is.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no {what} in PEM that can be used: {fault}")]
    Content {
        path: PathBuf,
        what: &'static str,
        fault: String,
    },
    #[error("the certificate {path} is of an X.509 version before 3, which TLS does not take")]
    Version { path: PathBuf },
    #[error("every user of this machine can read or change the key {path} (mode {mode:o})")]
    Exposed { path: PathBuf, mode: u32 },
}

impl PemError {
    /// What is wrong with the certificate of `path`.
    pub fn certificate(path: &Path, fault: &dyn std::fmt::Display) -> Self {
        content(path, CERTIFICATE, fault)
    }

    /// Where `fault` of TLS is the version of the certificate of `path`, the fault in our words. It
    /// says so before it compares the certificate with a key.
    pub fn version(path: &Path, fault: &rustls::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = fault else {
            return None;
        };
        // The type of it is of a crate that TLS is built with and that is none of ours.
        let is_version = format!("{other:?}").contains("UnsupportedCertVersion");
        is_version.then(|| Self::Version { path: path.into() })
    }

    /// What is wrong with the certificate of a CA of `path`.
    pub fn of_a_ca(path: &Path, fault: &dyn std::fmt::Display) -> Self {
        content(path, OF_A_CA, fault)
    }

    /// What is wrong with the key of `path`.
    pub fn key(path: &Path, fault: &dyn std::fmt::Display) -> Self {
        content(path, KEY, fault)
    }
}

fn content(path: &Path, what: &'static str, fault: &dyn std::fmt::Display) -> PemError {
    PemError::Content {
        path: path.into(),
        what,
        fault: fault.to_string(),
    }
}

/// The text of a file.
///
/// # Errors
/// It cannot be read.
pub fn text(path: &Path) -> Result<String, PemError> {
    String::from_utf8(bytes(path)?)
        .map_err(|other| unread(path)(io::Error::new(io::ErrorKind::InvalidData, other)))
}

/// The bytes of a file, which may be a device without an end.
fn bytes(path: &Path) -> Result<Vec<u8>, PemError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread(path))?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unread(path))?;
    if bytes.len() as u64 > LARGEST {
        let fault = io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 4 MiB");
        return Err(unread(path)(fault));
    }
    Ok(bytes)
}

/// The text of a key, which must not lie open. A group may have been let in on purpose.
///
/// # Errors
/// The file cannot be read, or every user of the machine can reach it.
pub fn key_text(path: &Path) -> Result<String, PemError> {
    let text = text(path)?;
    let found = fs::metadata(path).map_err(unread(path))?;
    let mode = found.permissions().mode() & 0o777;
    if is_exposed(mode) {
        return Err(PemError::Exposed {
            path: path.into(),
            mode,
        });
    }
    Ok(text)
}

/// The key that a file holds.
///
/// # Errors
/// As [`key_text`], or it holds none.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(key_text(path)?.as_bytes()).map_err(|e| PemError::key(path, &e))
}

/// The certificates that a file holds: at least one.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let bytes = bytes(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|e| PemError::certificate(path, &e))?;
    if found.is_empty() {
        return Err(PemError::certificate(path, &"there is none"));
    }
    Ok(found)
}

/// The certificates that a file holds, as those of whom to trust.
///
/// # Errors
/// As [`certificates`], or one is of no CA.
pub fn roots(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| PemError::of_a_ca(path, &e))?;
    }
    Ok(roots)
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> PemError + use<> {
    let path = path.to_owned();
    move |source| PemError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let path = Path::new("/dev/zero");
        for fault in [certificates(path).err(), key(path).err(), roots(path).err()] {
            let said = fault.map(|fault| fault.to_string()).unwrap_or_default();
            assert!(said.contains("4 MiB"), "{said}");
        }
    }
}
