//! The files of TLS in a state folder, and how they are written.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::TlsError;

/// The folder `tls` of a state folder.
#[derive(Debug, Clone)]
pub struct Folder {
    state: PathBuf,
    own: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Folder {
    pub fn of(state: &Path) -> Self {
        Self {
            state: state.into(),
            own: state.join("tls"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.own
    }

    /// The state folder that it lies in.
    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn ca(&self) -> Pair {
        self.pair("ca")
    }

    pub fn server(&self) -> Pair {
        self.pair("server")
    }

    /// What a worker called `name` shows. A worker may be called `ca`.
    pub fn worker(&self, name: &str) -> Pair {
        self.pair(&format!("workers/{name}"))
    }

    fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.own.join(format!("{name}.pem")),
            key: self.own.join(format!("{name}.key")),
        }
    }
}

impl Pair {
    /// The file of the two that is there.
    pub fn present(&self) -> Option<&Path> {
        [&self.certificate, &self.key]
            .into_iter()
            .find(|path| path.exists())
            .map(PathBuf::as_path)
    }

    /// Writes both, the key first: a certificate that is there has its key.
    ///
    /// # Errors
    /// One is there already, or cannot be written.
    pub fn write(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        if let Some(path) = self.present() {
            return Err(TlsError::Exists { path: path.into() });
        }
        write(&self.key, key)?;
        write(&self.certificate, certificate)
    }
}

/// Writes a file that its owner alone can read, under its name once it is complete. What is there
/// stays.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let fault = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => TlsError::Exists { path: path.into() },
        _ => TlsError::Write {
            path: path.into(),
            source,
        },
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(fault)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)?;
    file.as_file().sync_all().map_err(fault)?;
    file.persist_noclobber(path).map_err(|e| fault(e.error))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fault)
}
