//! A folder as one artifact.

use std::fs::File;
use std::path::Path;

use crate::transfer::{TransferError, io};

/// Puts the files of `folder`, and of folders in it, into one archive. The same files give the same bytes.
pub fn pack(folder: &Path, archive: &Path) -> Result<(), TransferError> {
    let mut builder = tar::Builder::new(File::create(archive).map_err(io(archive))?);
    builder.mode(tar::HeaderMode::Deterministic);
    append(&mut builder, folder, Path::new(""), archive)?;
    builder.into_inner().and_then(|file| file.sync_all()).map_err(io(archive))
}

/// Appends what lies in `folder` under the names that begin with `prefix`, in the order of the names.
fn append(builder: &mut tar::Builder<File>, folder: &Path, prefix: &Path, archive: &Path) -> Result<(), TransferError> {
    let entries = std::fs::read_dir(folder).map_err(io(folder))?;
    let names = entries.map(|entry| entry.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>();
    let mut names = names.map_err(io(folder))?;
    names.sort();
    for name in names {
        let (path, name) = (folder.join(&name), prefix.join(&name));
        builder.append_path_with_name(&path, &name).map_err(io(archive))?;
        if path.is_dir() {
            append(builder, &path, &name, archive)?;
        }
    }
    Ok(())
}

/// Unpacks an archive of [`pack`] into `folder`; names that lead out of it are left out.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), TransferError> {
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    tar::Archive::new(File::open(archive).map_err(io(archive))?).unpack(folder).map_err(io(archive))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_in_folders_come_back_and_the_bytes_are_the_same() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("from/inner")).expect("folders");
        fs::write(at("from/b"), "1").expect("a file");
        fs::write(at("from/inner/a"), "2").expect("a file");
        for archive in ["one", "two"] {
            pack(&at("from"), &at(archive)).expect("an archive");
        }
        assert_eq!(fs::read(at("one")).expect("bytes"), fs::read(at("two")).expect("bytes"));
        unpack(&at("one"), &at("to")).expect("files");
        assert_eq!(fs::read_to_string(at("to/inner/a")).expect("a file"), "2");
        assert_eq!(fs::read_to_string(at("to/b")).expect("a file"), "1");
    }
}
