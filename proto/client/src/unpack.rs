//! A folder out of an archive that came from outside.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};

use crate::transfer_error::{TransferError, io as at};

/// Files and folders of one archive at the most.
pub const MOST_ENTRIES: usize = 10_000;
/// What the first header of an archive holds, and where: no text has the zero byte.
const MAGIC: &[u8] = b"ustar  \0";
const MAGIC_AT: usize = 257;

/// Whether the file at `path` is an archive, which shows in its first bytes.
///
/// # Errors
/// Reading.
pub fn is_archive(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?
        .take((MAGIC_AT + MAGIC.len()) as u64)
        .read_to_end(&mut head)?;
    Ok(head.get(MAGIC_AT..) == Some(MAGIC))
}

/// Unpacks an archive into `folder`.
///
/// An archive comes from outside: it holds plain files and folders below its own root, no more of
/// them than a model or a checkpoint has, and no more bytes than the archive itself. One that holds
/// anything else is refused before any of it touches the disk.
///
/// # Errors
/// Reading, writing, or [`TransferError::Archive`], which names the entry.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), TransferError> {
    let mut file = File::open(archive).map_err(at(archive))?;
    let bytes = file.metadata().map_err(at(archive))?.len();
    let mut allowed = Allowed::new(archive, bytes);
    let mut all = tar::Archive::new(&file);
    for entry in all.entries_with_seek().map_err(at(archive))? {
        allowed.take(&entry.map_err(at(archive))?)?;
    }
    file.rewind().map_err(at(archive))?;
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let mut allowed = Allowed::new(archive, bytes);
    for entry in tar::Archive::new(&file).entries().map_err(at(archive))? {
        let mut entry = entry.map_err(at(archive))?;
        let to = folder.join(allowed.take(&entry)?);
        if entry.header().entry_type().is_dir() {
            std::fs::create_dir_all(&to).map_err(at(&to))?;
            continue;
        }
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(at(parent))?;
        }
        let mut out = File::create(&to).map_err(at(&to))?;
        std::io::copy(&mut entry, &mut out).map_err(at(&to))?;
    }
    Ok(())
}

/// What an archive may still hold.
struct Allowed<'a> {
    archive: &'a Path,
    entries: usize,
    bytes: u64,
}

impl<'a> Allowed<'a> {
    fn new(archive: &'a Path, bytes: u64) -> Self {
        Self {
            archive,
            entries: MOST_ENTRIES,
            bytes,
        }
    }

    fn refused<T>(&self, fault: String) -> Result<T, TransferError> {
        Err(TransferError::Archive {
            path: self.archive.into(),
            fault,
        })
    }

    /// The path of the next entry within the archive.
    fn take<R: Read>(&mut self, entry: &tar::Entry<'_, R>) -> Result<PathBuf, TransferError> {
        let name = entry.path().map_err(at(self.archive))?.into_owned();
        if self.entries == 0 {
            return self.refused(format!("it holds more than {MOST_ENTRIES} files"));
        }
        self.entries -= 1;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            return self.refused(format!("{} is neither a file nor a folder", name.display()));
        }
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(inside) {
            return self.refused(format!("{} leads out of it", name.display()));
        }
        // A sparse entry may claim more than there is.
        match self.bytes.checked_sub(entry.size()) {
            Some(left) => self.bytes = left,
            None => return self.refused(format!("{} is too long", name.display())),
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An archive of a good entry and one as an attacker makes it.
    fn archive_of(path: &Path, kind: tar::EntryType, name: &[u8], bytes: &[u8]) {
        let mut builder = tar::Builder::new(File::create(path).expect("a file"));
        let good = header(tar::EntryType::Regular, b"good", 4);
        builder.append(&good, &b"good"[..]).expect("an entry");
        let header = header(kind, name, bytes.len() as u64);
        builder.append(&header, bytes).expect("an entry");
        builder.finish().expect("an archive");
    }

    fn header(kind: tar::EntryType, name: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(size);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").expect("a name");
        }
        header.set_cksum();
        header
    }

    #[test]
    fn plain_files_and_folders_are_unpacked() {
        let home = tempfile::tempdir().expect("a folder");
        let (archive, folder) = (home.path().join("a.tar"), home.path().join("a"));
        archive_of(&archive, tar::EntryType::Regular, b"deep/er", b"bytes");
        unpack(&archive, &folder).expect("a folder");
        for (name, bytes) in [("good", &b"good"[..]), ("deep/er", &b"bytes"[..])] {
            assert_eq!(fs::read(folder.join(name)).expect("a file"), bytes);
        }
    }

    #[test]
    fn what_is_no_plain_file_or_leads_out_is_refused_and_leaves_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        let cases: [(tar::EntryType, &[u8]); 8] = [
            (tar::EntryType::Symlink, b"link"),
            (tar::EntryType::Link, b"link"),
            (tar::EntryType::Fifo, b"pipe"),
            (tar::EntryType::Char, b"device"),
            (tar::EntryType::Regular, b"../out"),
            (tar::EntryType::Regular, b"a/../../out"),
            (tar::EntryType::Regular, b"/tmp/qlora-test-out"),
            (tar::EntryType::Directory, b"../folder"),
        ];
        for (i, (kind, name)) in cases.into_iter().enumerate() {
            let (archive, folder) = (at(&format!("{i}.tar")), at(&format!("{i}")));
            archive_of(&archive, kind, name, b"");
            let refused = unpack(&archive, &folder);
            assert!(
                matches!(refused, Err(TransferError::Archive { .. })),
                "{kind:?} {refused:?}"
            );
            assert!(!folder.exists(), "{kind:?}");
        }
        assert!(!at("out").exists() && !at("folder").exists());
    }
}
