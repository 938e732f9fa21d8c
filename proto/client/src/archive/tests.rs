use super::*;
use crate::unpack;

struct Home(tempfile::TempDir);

impl Home {
    /// Files and folders of all sizes around those of a block, also with names that no header of
    /// tar has room for.
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir_all(home.path("from/inner/deep")).expect("folders");
        fs::create_dir(home.path("from/empty")).expect("a folder");
        for (name, bytes) in [
            ("a", 0),
            ("b", 1),
            ("c", 511),
            ("inner/d", 512),
            ("inner/deep/e", 513),
            ("z", 300_000),
        ] {
            let bytes: Vec<u8> = (0..bytes as u32)
                .map(|i| (i.wrapping_mul(i) >> 5) as u8)
                .collect();
            fs::write(home.path("from").join(name), bytes).expect("a file");
        }
        fs::write(home.path("from/inner").join("long".repeat(40)), "long").expect("a file");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn archive(&self) -> Archive {
        Archive::of(&self.path("from")).expect("an archive")
    }
}

fn bytes(archive: &Archive, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.write(offset, &mut bytes).expect("bytes");
    bytes
}

/// What earlier versions wrote beside the folder.
fn packed(folder: &Path) -> Vec<u8> {
    fn append(builder: &mut tar::Builder<Vec<u8>>, folder: &Path, prefix: &Path) {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        for name in names {
            let (path, name) = (folder.join(&name), prefix.join(&name));
            builder
                .append_path_with_name(&path, &name)
                .expect("an entry");
            if path.is_dir() {
                append(builder, &path, &name);
            }
        }
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.mode(tar::HeaderMode::Deterministic);
    append(&mut builder, folder, Path::new(""));
    builder.into_inner().expect("bytes")
}

#[test]
fn both_passes_give_the_same_bytes_and_those_of_earlier_versions() {
    let home = Home::new();
    let archive = home.archive();
    let all = bytes(&archive, 0);
    assert!(
        all == packed(&home.path("from")),
        "the bytes are others than before"
    );
    assert_eq!(
        (archive.size(), archive.digest()),
        (all.len() as u64, hex::encode(Sha256::digest(&all)).as_str())
    );
    assert_eq!(home.archive().digest(), archive.digest());
    // Times and owners are not in it.
    let touched = File::options()
        .write(true)
        .open(home.path("from/b"))
        .expect("a file");
    touched
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("a time");
    assert_eq!(home.archive().digest(), archive.digest());
    fs::write(home.path("from/b"), "2").expect("a file");
    assert_ne!(home.archive().digest(), archive.digest());
    // Nothing but the folder is there.
    assert_eq!(fs::read_dir(home.0.path()).expect("a folder").count(), 1);
}

#[test]
fn folders_in_folders_come_back() {
    let home = Home::new();
    fs::write(home.path("a.tar"), bytes(&home.archive(), 0)).expect("a file");
    unpack(&home.path("a.tar"), &home.path("to")).expect("files");
    assert_eq!(
        Archive::of(&home.path("to")).expect("an archive").digest(),
        home.archive().digest()
    );
    assert!(home.path("to/empty").is_dir());
}

#[test]
fn an_upload_goes_on_from_every_byte() {
    let home = Home::new();
    let archive = home.archive();
    let all = bytes(&archive, 0);
    for offset in (0..all.len())
        .step_by(4093)
        .chain([1, 511, 512, 513, all.len() - 1, all.len()])
    {
        assert!(
            bytes(&archive, offset as u64) == all[offset..],
            "from byte {offset}"
        );
    }
}

#[test]
fn a_file_that_changed_between_the_passes_is_named() {
    type Change = fn(&Path) -> io::Result<()>;
    let changes: [(&str, Change); 5] = [
        ("longer", |path| {
            File::options().append(true).open(path)?.write_all(b"x")
        }),
        ("shorter", |path| {
            File::options().write(true).open(path)?.set_len(7)
        }),
        ("of the same length", |path| fs::write(path, vec![7; 513])),
        ("replaced", |path| {
            fs::write(path.with_extension("new"), vec![7; 513])?;
            fs::rename(path.with_extension("new"), path)
        }),
        ("gone", |path| fs::remove_file(path)),
    ];
    for (how, change) in changes {
        let home = Home::new();
        let (archive, file) = (home.archive(), home.path("from/inner/deep/e"));
        let all = bytes(&archive, 0);
        archive.check().expect("nothing has changed");
        change(&file).expect("a change");
        for offset in [0, archive.size()] {
            let mut written = Vec::new();
            let fault = archive.write(offset, &mut written).expect_err(how);
            assert!(
                all[offset as usize..].starts_with(&written),
                "{how}: more came than what had not changed"
            );
            assert!(
                matches!(&fault, TransferError::Changed { path } if *path == file),
                "{how}: {fault}"
            );
        }
        assert!(
            matches!(archive.check(), Err(TransferError::Changed { .. })),
            "{how}"
        );
        // Another look takes it as it is now.
        bytes(&home.archive(), 0);
    }
}

#[test]
fn a_file_that_is_written_while_it_is_read_is_named() {
    /// Writes to a file as soon as bytes of it come by.
    struct Meddler(PathBuf, u64);
    impl Write for Meddler {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += bytes.len() as u64;
            if self.1 > 150_000 {
                File::options()
                    .write(true)
                    .open(&self.0)?
                    .write_all(b"other")?;
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let home = Home::new();
    let (archive, file) = (home.archive(), home.path("from/z"));
    let fault = archive
        .write(0, &mut Meddler(file.clone(), 0))
        .expect_err("a mixture");
    assert!(
        matches!(&fault, TransferError::Changed { path } if *path == file),
        "{fault}"
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_pass() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fault = Home::new()
        .archive()
        .write(0, &mut Closed)
        .expect_err("it went on");
    assert!(
        matches!(fault, TransferError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    );
}

#[test]
fn an_archive_of_some_files_holds_these_under_their_names_and_is_told_from_rows() {
    let home = Home::new();
    let files = ["c", "a"].map(|name| home.path("from").join(name));
    let archive = Archive::of_files(&home.path("from"), &files).expect("an archive");
    let at = home.path("some.tar");
    fs::write(&at, bytes(&archive, 0)).expect("a file");
    assert!(crate::is_archive(&at).expect("an archive"));
    unpack(&at, &home.path("some")).expect("files");
    let mut names: Vec<_> = fs::read_dir(home.path("some"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    for rows in [String::new(), "x".repeat(100), "x".repeat(1000)] {
        fs::write(&at, rows).expect("a file");
        assert!(!crate::is_archive(&at).expect("a file"));
    }
}
