//! A folder as one artifact.

use std::fs::File;
use std::path::Path;

use crate::transfer::{TransferError, io};

/// Puts the files of `folder` into one archive. The same files give the same bytes.
pub fn pack(folder: &Path, archive: &Path) -> Result<(), TransferError> {
    let entries = std::fs::read_dir(folder).map_err(io(folder))?;
    let names = entries.map(|entry| entry.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>();
    let mut names = names.map_err(io(folder))?;
    names.sort();
    let mut builder = tar::Builder::new(File::create(archive).map_err(io(archive))?);
    builder.mode(tar::HeaderMode::Deterministic);
    for name in names {
        builder.append_path_with_name(folder.join(&name), &name).map_err(io(archive))?;
    }
    builder.into_inner().and_then(|file| file.sync_all()).map_err(io(archive))
}

/// Unpacks an archive of [`pack`] into `folder`; names that lead out of it are left out.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), TransferError> {
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    tar::Archive::new(File::open(archive).map_err(io(archive))?).unpack(folder).map_err(io(archive))
}
