//! Artifacts in a folder, each under its SHA-256.
//!
//! An upload is written to `partial/<digest>` and goes on there after a break. When all bytes are there, they are
//! hashed, synced, and renamed to `sha256/<first two>/<digest>`: under that name an artifact is complete and right.

use std::fmt;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// A SHA-256 as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest256(String);

impl FromStr for Digest256 {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self, ArtifactError> {
        let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ArtifactError::BadDigest { text: text.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("`{text}` is no SHA-256 in lower-case hexadecimal")]
    BadDigest { text: String },
    #[error("there is no artifact {0}")]
    Missing(Digest256),
    #[error("an upload of {digest} goes on at byte {expected}, not {offset}; ask again where it stands")]
    Offset { digest: Digest256, expected: u64, offset: u64 },
    #[error("an upload of {digest} brings more than its {size} bytes")]
    TooLong { digest: Digest256, size: u64 },
    #[error("the bytes that came hash to {found}, not {digest}; the upload starts anew")]
    Mismatch { digest: Digest256, found: String },
    #[error("the disk of the artifact store is full; free space under {path}")]
    DiskFull { path: PathBuf },
    #[error("the artifact store fails at {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ArtifactError {
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ArtifactError::DiskFull { path: path.into() }
        }
        _ => ArtifactError::Io { path: path.into(), source },
    }
}

/// What the store has of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactStat {
    pub complete: bool,
    /// Bytes that are there.
    pub size: u64,
}

/// A folder of artifacts.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    folder: PathBuf,
}

impl ArtifactStore {
    /// Opens the store in `folder`, and makes it where it is missing.
    pub async fn open(folder: &Path) -> Result<Self, ArtifactError> {
        for part in ["partial", "sha256"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).await.map_err(io(&path))?;
        }
        Ok(Self { folder: folder.into() })
    }

    fn final_path(&self, digest: &Digest256) -> PathBuf {
        self.folder.join("sha256").join(&digest.0[..2]).join(&digest.0)
    }

    fn partial_path(&self, digest: &Digest256) -> PathBuf {
        self.folder.join("partial").join(&digest.0)
    }

    pub async fn stat(&self, digest: &Digest256) -> ArtifactStat {
        if let Ok(meta) = fs::metadata(self.final_path(digest)).await {
            return ArtifactStat { complete: true, size: meta.len() };
        }
        let size = fs::metadata(self.partial_path(digest)).await.map_or(0, |meta| meta.len());
        ArtifactStat { complete: false, size }
    }

    /// Throws away what has come of an upload: a full disk must not stay full of it, or no state can be stored.
    pub async fn discard(&self, digest: &Digest256) {
        let _ = fs::remove_file(self.partial_path(digest)).await;
    }

    /// Begins or goes on with an upload of `size` bytes at `offset`.
    pub async fn upload(&self, digest: &Digest256, size: u64, offset: u64) -> Result<Upload, ArtifactError> {
        let path = self.partial_path(digest);
        let file = OpenOptions::new().create(true).append(true).open(&path).await.map_err(io(&path))?;
        let received = file.metadata().await.map_err(io(&path))?.len();
        if received != offset {
            return Err(ArtifactError::Offset { digest: digest.clone(), expected: received, offset });
        }
        Ok(Upload { store: self.clone(), digest: digest.clone(), size, received, file })
    }

    /// Reads an artifact from `offset` on.
    pub async fn read(&self, digest: &Digest256, offset: u64) -> Result<ArtifactReader, ArtifactError> {
        let path = self.final_path(digest);
        let mut file = match File::open(&path).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(ArtifactError::Missing(digest.clone())),
            other => other.map_err(io(&path))?,
        };
        let size = file.metadata().await.map_err(io(&path))?.len();
        file.seek(SeekFrom::Start(offset.min(size))).await.map_err(io(&path))?;
        Ok(ArtifactReader { size, file, path })
    }
}

/// An upload in progress; dropping it keeps what has come.
#[derive(Debug)]
pub struct Upload {
    store: ArtifactStore,
    digest: Digest256,
    size: u64,
    received: u64,
    file: File,
}

impl Upload {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.received += bytes.len() as u64;
        if self.received > self.size {
            return Err(ArtifactError::TooLong { digest: self.digest.clone(), size: self.size });
        }
        let path = self.store.partial_path(&self.digest);
        self.file.write_all(bytes).await.map_err(io(&path))
    }

    /// Whether all bytes are there.
    pub fn is_full(&self) -> bool {
        self.received == self.size
    }

    /// Checks the bytes and gives the artifact its final name.
    ///
    /// # Errors
    /// The bytes hash to something else: they are thrown away.
    pub async fn finish(mut self) -> Result<(), ArtifactError> {
        let partial = self.store.partial_path(&self.digest);
        self.file.flush().await.map_err(io(&partial))?;
        self.file.sync_all().await.map_err(io(&partial))?;
        let found = hash(&partial).await?;
        if found != self.digest.0 {
            fs::remove_file(&partial).await.map_err(io(&partial))?;
            return Err(ArtifactError::Mismatch { digest: self.digest, found });
        }
        let path = self.store.final_path(&self.digest);
        let folder = path.parent().unwrap_or(&self.store.folder);
        fs::create_dir_all(folder).await.map_err(io(folder))?;
        fs::rename(&partial, &path).await.map_err(io(&path))?;
        File::open(folder).await.map_err(io(folder))?.sync_all().await.map_err(io(folder))
    }
}

async fn hash(path: &Path) -> Result<String, ArtifactError> {
    let mut file = File::open(path).await.map_err(io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer).await.map_err(io(path))? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Reads an artifact piece by piece.
#[derive(Debug)]
pub struct ArtifactReader {
    /// Of the whole artifact.
    pub size: u64,
    file: File,
    path: PathBuf,
}

impl ArtifactReader {
    /// Up to `limit` further bytes; none at the end.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        let mut buffer = vec![0u8; limit];
        let n = self.file.read(&mut buffer).await.map_err(io(&self.path))?;
        buffer.truncate(n);
        Ok(buffer)
    }
}
