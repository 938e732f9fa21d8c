//! A folder out of an archive that came from outside.

use std::fs::File;
use std::path::{Component, Path};

use crate::transfer_error::{TransferError, io};

/// Files and folders of one archive at the most.
const MOST_ENTRIES: usize = 10_000;

/// Unpacks an archive into `folder`.
///
/// An archive comes from outside: it holds plain files and folders below its own root, no more of
/// them than a model or a checkpoint has, and no more bytes than the archive itself. Anything else
/// is refused before it touches the disk.
///
/// # Errors
/// Reading, writing, or [`TransferError::Archive`], which names the entry.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), TransferError> {
    let refused = |fault: String| TransferError::Archive {
        path: archive.into(),
        fault,
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let file = File::open(archive).map_err(io(archive))?;
    let mut room = file.metadata().map_err(io(archive))?.len();
    let mut entries = tar::Archive::new(file);
    for (i, entry) in entries.entries().map_err(io(archive))?.enumerate() {
        let mut entry = entry.map_err(io(archive))?;
        let name = entry.path().map_err(io(archive))?.into_owned();
        if i == MOST_ENTRIES {
            return Err(refused(format!("it holds more than {MOST_ENTRIES} files")));
        }
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            return Err(refused(format!(
                "{} is neither a file nor a folder",
                name.display()
            )));
        }
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(inside) {
            return Err(refused(format!("{} leads out of it", name.display())));
        }
        // A sparse entry may claim more than there is.
        room = room
            .checked_sub(entry.size())
            .ok_or_else(|| refused(format!("{} is too long", name.display())))?;
        let to = folder.join(&name);
        if kind.is_dir() {
            std::fs::create_dir_all(&to).map_err(io(&to))?;
            continue;
        }
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(io(parent))?;
        }
        let mut out = File::create(&to).map_err(io(&to))?;
        std::io::copy(&mut entry, &mut out).map_err(io(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An archive with one entry, as an attacker makes it.
    fn archive_of(path: &Path, kind: tar::EntryType, name: &[u8], bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(bytes.len() as u64);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").expect("a name");
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(File::create(path).expect("a file"));
        builder.append(&header, bytes).expect("an entry");
        builder.finish().expect("an archive");
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
            assert_eq!(
                fs::read_dir(&folder).expect("a folder").count(),
                0,
                "{kind:?}"
            );
        }
        assert!(!at("out").exists() && !at("folder").exists());
    }
}
