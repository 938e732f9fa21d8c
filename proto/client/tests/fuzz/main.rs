//! Fuzz target: archives that came from outside.

use std::fs;
use std::path::Path;

use qlora_client::{Archive, is_archive, unpack};
use qlora_fuzz::Target;

#[test]
fn fuzz_archive() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("a.tar");
    let inside = home.path().join("in");
    fs::create_dir_all(inside.join("b/empty")).expect("a folder");
    fs::write(inside.join("a"), "bytes").expect("a file");
    fs::write(inside.join("b/c"), "more").expect("a file");
    fs::write(inside.join("long".repeat(30)), "a long name").expect("a file");
    let seed = packed(&inside);
    fs::write(&path, &seed).expect("a file");
    assert!(is_archive(&path).expect("bytes"));
    Target::new("archive")
        .seed(seed)
        .seed(tar_of(&[
            (tar::EntryType::Regular, "a/b"),
            (tar::EntryType::Directory, "c"),
        ]))
        .seed(tar_of(&[
            (tar::EntryType::GNULongName, "././@LongLink"),
            (tar::EntryType::Regular, "d"),
        ]))
        .seed(tar_of(&[
            (tar::EntryType::XHeader, "pax"),
            (tar::EntryType::GNUSparse, "e"),
        ]))
        .words(&[
            "../",
            "/",
            "ustar",
            "0000777",
            "77777777777",
            "PaxHeader",
            "./",
            "11 path=../x\n",
            "12 size=9999\n",
        ])
        .run(|bytes| {
            fs::write(&path, bytes).expect("a file");
            check(&path, bytes.len() as u64);
        });
}

/// What is unpacked lies in the folder, is no more than the archive, and is packed and unpacked as
/// the same.
fn check(archive: &Path, most: u64) {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("folder");
    is_archive(archive).expect("the first bytes are read");
    let result = unpack(archive, &folder);
    let outside = fs::read_dir(place.path()).expect("a folder");
    let outside: Vec<_> = outside
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(outside.iter().all(|name| name == "folder"), "{outside:?}");
    if let Err(e) = result {
        assert!(!e.to_string().is_empty());
        return;
    }
    assert!(
        plain_bytes(&folder) <= most,
        "more bytes than the archive has"
    );
    let bytes = packed(&folder);
    let (again, copy) = (place.path().join("again.tar"), place.path().join("copy"));
    fs::write(&again, &bytes).expect("a file");
    unpack(&again, &copy).expect("what was packed is unpacked");
    assert!(packed(&copy) == bytes, "the same files and folders");
}

/// Bytes of all files below `folder`, which holds files and folders alone.
fn plain_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder");
    let one = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            return plain_bytes(&entry.path());
        }
        assert!(kind.is_file(), "{} is a {kind:?}", entry.path().display());
        entry.metadata().expect("a size").len()
    };
    entries.map(one).sum()
}

/// The bytes of the archive of `folder`.
fn packed(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let archive = Archive::of(folder).expect("an archive");
    archive.write(0, &mut bytes).expect("bytes");
    bytes
}

/// An archive of entries with a little content.
fn tar_of(entries: &[(tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name) in entries {
        let content: &[u8] = if *kind == tar::EntryType::Directory {
            b""
        } else {
            b"12 path=a/x\n"
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content).expect("an entry");
    }
    builder.into_inner().expect("bytes")
}
