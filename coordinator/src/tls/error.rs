//! Why certificates cannot be made or served.

use std::io;
use std::path::PathBuf;

use qlora_access::PemError;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    File(#[from] PemError),
    #[error("{path} cannot be written: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is there already, and is left as it is")]
    Exists { path: PathBuf },
    #[error("the certificate {path} has expired on {day}")]
    Expired { path: PathBuf, day: String },
    #[error("the certificate {certificate} and the key {key} cannot be used together: {fault}")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        fault: rustls::Error,
    },
    #[error("{folder} has no CA")]
    NoCa { folder: PathBuf },
    #[error("--tls-client-ca was given, and the coordinator has no certificate of its own")]
    NoCertificate {
        /// The state folder.
        folder: PathBuf,
    },
    #[error(
        "the state folder {folder} has a CA, and the coordinator has no certificate of its own"
    )]
    NoServer { folder: PathBuf },
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl TlsError {
    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::File(PemError::Read { .. }) => "name a file that this user can read".into(),
            Self::Write { .. } => "let this user write there, and make room".into(),
            Self::Exists { path } => format!(
                "to have another one, move {} away with the file beside it that has the same name, then try again",
                path.display()
            ),
            Self::File(PemError::Content { .. }) => {
                "give PEM files: a certificate before those of its CAs, and a PKCS #8 key".into()
            }
            Self::File(PemError::Version { .. }) => {
                "give one of version 3, as qlora-coordinator init makes it".into()
            }
            Self::File(PemError::Exposed { path, .. }) => format!(
                "others may have read it: make another key and certificate, or keep it with: chmod 600 {}",
                path.display()
            ),
            Self::Expired { .. } => {
                "make another one; one of qlora-coordinator init is moved away with its key, and made again by qlora-coordinator init"
                    .into()
            }
            Self::Pair { .. } => "name a certificate and the key that was made with it".into(),
            Self::NoCa { folder } => format!(
                "make it with qlora-coordinator init --state-dir {}",
                folder.parent().unwrap_or(folder).display()
            ),
            Self::NoServer { folder } => format!(
                "make one with qlora-coordinator init --state-dir {}, or serve without by --insecure-no-tls",
                folder.display()
            ),
            Self::NoCertificate { folder } => format!(
                "make one with qlora-coordinator init --state-dir {}, or give --tls-cert and --tls-key",
                folder.display()
            ),
            Self::Make(_) => "give --host names and addresses in ASCII".into(),
            Self::Setup(_) => "give other certificates".into(),
        }
    }
}
