//! A folder as one artifact: a tar archive that never lies on a disk.
//!
//! [`Archive::of`] reads the files once and computes the digest and size of the archive.
//! [`Archive::write`] produces the same bytes again, from any offset, so that an interrupted upload
//! can resume. It names a file that has changed in the meantime.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::transfer_error::{TransferError, io};

/// A folder whose files and bytes are known.
#[derive(Debug, Clone)]
pub struct Archive {
    folder: PathBuf,
    entries: Vec<Entry>,
    /// SHA-256 in hex.
    digest: String,
    size: u64,
}

/// A file or folder in the order of the archive.
#[derive(Debug, Clone)]
struct Entry {
    /// Within the folder.
    name: PathBuf,
    is_folder: bool,
    stamp: Stamp,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    place: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            bytes: meta.len(),
            place: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Archive {
    /// The archive of `folder`: its files, and those of folders in it, by their names. The same
    /// files give the same bytes.
    ///
    /// # Errors
    /// Reading, or [`TransferError::Changed`], which names a file that was written meanwhile.
    pub fn of(folder: &Path) -> Result<Self, TransferError> {
        let mut entries = Vec::new();
        list(folder, Path::new(""), &mut entries)?;
        Self::with(folder, entries)
    }

    /// The archive of `files` alone, which lie in `folder`, in this order.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_files(folder: &Path, files: &[PathBuf]) -> Result<Self, TransferError> {
        let entry = |path: &PathBuf| -> Result<Entry, TransferError> {
            let meta = fs::metadata(path).map_err(io(path))?;
            Ok(Entry {
                name: path.file_name().unwrap_or_default().into(),
                is_folder: false,
                stamp: Stamp::of(&meta),
            })
        };
        Self::with(folder, files.iter().map(entry).collect::<Result<_, _>>()?)
    }

    fn with(folder: &Path, entries: Vec<Entry>) -> Result<Self, TransferError> {
        let mut archive = Self {
            folder: folder.into(),
            entries,
            digest: String::new(),
            size: 0,
        };
        let mut summed = Summed {
            hash: Sha256::new(),
            size: 0,
        };
        archive.write(0, &mut summed)?;
        (archive.digest, archive.size) = (hex::encode(summed.hash.finalize()), summed.size);
        Ok(archive)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// SHA-256 in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes the bytes from `offset` on to `out`.
    ///
    /// # Errors
    /// [`TransferError::Io`] of the folder where `out` takes no more; [`TransferError::Changed`],
    /// which names a file that is not what it was.
    pub fn write(&self, offset: u64, out: &mut dyn Write) -> Result<(), TransferError> {
        let mut builder = tar::Builder::new(Rest {
            skip: offset,
            out,
            is_open: true,
        });
        for entry in &self.entries {
            if let Err(fault) = self.append(&mut builder, entry) {
                // A builder that is dropped writes the end of an archive.
                builder.get_mut().is_open = false;
                return Err(fault);
            }
        }
        builder.finish().map_err(io(&self.folder))
    }

    /// Whether the files are still those that the digest is of.
    ///
    /// # Errors
    /// [`TransferError::Changed`], which names the file, or the folder where all files look as
    /// before.
    pub fn check(&self) -> Result<(), TransferError> {
        let mut summed = Summed {
            hash: Sha256::new(),
            size: 0,
        };
        self.write(0, &mut summed)?;
        if hex::encode(summed.hash.finalize()) == self.digest {
            Ok(())
        } else {
            Err(TransferError::Changed {
                path: self.folder.clone(),
            })
        }
    }

    fn append(
        &self,
        builder: &mut tar::Builder<Rest<'_>>,
        entry: &Entry,
    ) -> Result<(), TransferError> {
        let path = self.folder.join(&entry.name);
        let gone = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => TransferError::Changed { path: path.clone() },
            _ => io(&path)(e),
        };
        let file = File::open(&path).map_err(gone)?;
        let meta = file.metadata().map_err(io(&path))?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&meta, tar::HeaderMode::Deterministic);
        if entry.is_folder {
            header.set_size(0);
            return builder
                .append_data(&mut header, &entry.name, io::empty())
                .map_err(io(&self.folder));
        }
        if Stamp::of(&meta) != entry.stamp {
            return Err(TransferError::Changed { path });
        }
        let mut exact = Exact {
            file: &file,
            left: entry.stamp.bytes,
        };
        builder
            .append_data(&mut header, &entry.name, &mut exact)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => TransferError::Changed { path: path.clone() },
                _ => io(&path)(e),
            })?;
        // What was written while it was read is in the archive in part.
        match file.metadata().map(|meta| Stamp::of(&meta)) {
            Ok(after) if after == entry.stamp => Ok(()),
            _ => Err(TransferError::Changed { path }),
        }
    }
}

/// Lists what lies in `folder` under the names that begin with `prefix`, in the order of the names.
fn list(folder: &Path, prefix: &Path, entries: &mut Vec<Entry>) -> Result<(), TransferError> {
    let found = fs::read_dir(folder).map_err(io(folder))?;
    let names = found
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<Vec<_>, _>>();
    let mut names = names.map_err(io(folder))?;
    names.sort();
    for name in names {
        let (path, name) = (folder.join(&name), prefix.join(&name));
        let meta = fs::metadata(&path).map_err(io(&path))?;
        entries.push(Entry {
            name: name.clone(),
            is_folder: meta.is_dir(),
            stamp: Stamp::of(&meta),
        });
        if meta.is_dir() {
            list(&path, &name, entries)?;
        }
    }
    Ok(())
}

/// A file of as many bytes as its header says.
struct Exact<'a> {
    file: &'a File,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..room])?;
        self.left -= read as u64;
        if read == 0 && room > 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(read)
        }
    }
}

/// Passes on what comes after the first `skip` bytes.
struct Rest<'a> {
    skip: u64,
    out: &'a mut dyn Write,
    is_open: bool,
}

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let skipped = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.out.write_all(&bytes[skipped..])?;
        self.skip -= skipped as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Summed {
    hash: Sha256,
    size: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
