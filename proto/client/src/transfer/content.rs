//! Where the bytes of an upload come from: a file, or a folder whose archive is made on the way.

use std::io::{self, SeekFrom, Write};
use std::path::{Path, PathBuf};

use qlora_proto::CHUNK_BYTES;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::archive::Archive;
use crate::transfer_error::{TransferError, io};

/// SHA-256 in hex and size of a file.
pub fn digest(path: &Path) -> Result<(String, u64), TransferError> {
    let mut file = std::fs::File::open(path).map_err(io(path))?;
    let mut hash = Sha256::new();
    let size = io::copy(&mut file, &mut hash).map_err(io(path))?;
    Ok((hex::encode(hash.finalize()), size))
}

#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    File(&'a Path),
    Folder(&'a Archive),
}

impl Content<'_> {
    /// Whether it is still what has `wanted` as its digest.
    ///
    /// # Errors
    /// [`TransferError::Changed`], and those of reading.
    pub(super) async fn check(self, wanted: &str) -> Result<(), TransferError> {
        match self {
            Self::File(path) if digest(path)?.0 == wanted => Ok(()),
            Self::File(path) => Err(TransferError::Changed { path: path.into() }),
            Self::Folder(archive) => {
                let archive = archive.clone();
                joined(spawn_blocking(move || archive.check())).await
            }
        }
    }
}

/// Reads a content, a chunk at a time.
pub(super) enum Reader {
    File {
        file: File,
        path: PathBuf,
    },
    Folder {
        chunks: mpsc::Receiver<Vec<u8>>,
        made: Option<JoinHandle<Result<(), TransferError>>>,
    },
}

impl Reader {
    pub(super) async fn open(content: Content<'_>, offset: u64) -> Result<Self, TransferError> {
        match content {
            Content::File(path) => {
                let mut file = File::open(path).await.map_err(io(path))?;
                file.seek(SeekFrom::Start(offset)).await.map_err(io(path))?;
                Ok(Self::File {
                    file,
                    path: path.into(),
                })
            }
            Content::Folder(archive) => {
                let (sender, chunks) = mpsc::channel(2);
                let archive = archive.clone();
                let made = spawn_blocking(move || {
                    let mut out = Chunks {
                        sender,
                        chunk: Vec::with_capacity(CHUNK_BYTES),
                    };
                    archive.write(offset, &mut out)?;
                    out.flush().map_err(io(archive.folder()))
                });
                Ok(Self::Folder {
                    chunks,
                    made: Some(made),
                })
            }
        }
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, TransferError> {
        match self {
            Self::File { file, path } => {
                let mut data = vec![0u8; CHUNK_BYTES];
                let n = file.read(&mut data).await.map_err(io(path))?;
                data.truncate(n);
                Ok(data)
            }
            Self::Folder { chunks, made } => {
                if let Some(chunk) = chunks.recv().await {
                    return Ok(chunk);
                }
                if let Some(made) = made.take() {
                    joined(made).await?;
                }
                Ok(Vec::new())
            }
        }
    }
}

async fn joined(made: JoinHandle<Result<(), TransferError>>) -> Result<(), TransferError> {
    made.await
        .unwrap_or_else(|e| Err(TransferError::Refused(e.to_string())))
}

/// Gathers bytes into chunks and sends them, until nobody takes them any more.
struct Chunks {
    sender: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend(&bytes[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.sender
            .blocking_send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(content: Content<'_>, offset: u64) -> Result<(Vec<u8>, usize), TransferError> {
        let mut reader = Reader::open(content, offset).await?;
        let (mut bytes, mut chunks) = (Vec::new(), 0);
        loop {
            let chunk = reader.next().await?;
            assert!(chunk.len() <= CHUNK_BYTES);
            if chunk.is_empty() {
                return Ok((bytes, chunks));
            }
            bytes.extend(chunk);
            chunks += 1;
        }
    }

    #[test]
    fn a_folder_is_read_as_its_archive_is_from_any_offset() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("from");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("a"), vec![7u8; 3 * CHUNK_BYTES]).expect("a file");
        let archive = Archive::of(&folder).expect("an archive");
        let mut wanted = Vec::new();
        archive.write(0, &mut wanted).expect("bytes");
        let path = home.path().join("a.tar");
        std::fs::write(&path, &wanted).expect("a file");
        runtime.block_on(async {
            for offset in [
                0,
                1,
                CHUNK_BYTES,
                CHUNK_BYTES + 1,
                wanted.len() - 1,
                wanted.len(),
            ] {
                let folder = all(Content::Folder(&archive), offset as u64)
                    .await
                    .expect("bytes");
                let file = all(Content::File(&path), offset as u64)
                    .await
                    .expect("bytes");
                assert!(
                    folder.0 == wanted[offset..] && folder == file,
                    "from byte {offset}"
                );
            }
            Content::Folder(&archive)
                .check(archive.digest())
                .await
                .expect("nothing has changed");
            std::fs::write(folder.join("a"), vec![8u8; 3 * CHUNK_BYTES]).expect("a file");
            for fault in [
                all(Content::Folder(&archive), 9).await.err(),
                Content::Folder(&archive).check("").await.err(),
            ] {
                assert!(
                    matches!(&fault, Some(TransferError::Changed { path }) if path.ends_with("a")),
                    "{fault:?}"
                );
            }
        });
    }
}
