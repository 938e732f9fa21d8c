use std::ffi::OsString;
use std::fs::File;

use super::claim::of_another;
use super::*;

fn names(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_gone_process_left_is_removed_and_what_one_holds_is_not() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    let left = of_another(&out).expect("a start of the machine");
    for is_folder in [false, true] {
        let make = || {
            if is_folder {
                fs::create_dir(&left)
                    .and_then(|()| fs::write(left.join("part"), "half"))
                    .expect("a folder");
            } else {
                fs::write(&left, "half").expect("a file");
            }
        };
        make();
        let held = File::open(&left).expect("it is there");
        held.lock().expect("a lock");
        assert_eq!(
            sweep(&out),
            Begun {
                removed: vec![],
                kept: vec![left.clone()]
            }
        );
        drop(held);
        assert_eq!(
            sweep(&out),
            Begun {
                removed: vec![left.clone()],
                kept: vec![]
            }
        );
        assert_eq!(sweep(&out), Begun::default());
        // Whoever writes the same name does it by itself.
        make();
        drop(Partial::file(&out).expect("a file"));
        assert!(names(home.path()).is_empty());
    }
}

#[test]
fn what_other_machines_and_versions_began_is_named_and_left() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    let others = [
        "m.000000000000.17-0badcafe.0.partial",
        "m.partial",
        "m.unlocked.1-00000002.0.partial",
    ];
    for name in others
        .iter()
        .chain(&["m.gguf", "m.unlocked.1-00000002.0.partial.txt"])
    {
        fs::write(home.path().join(name), "half").expect("a file");
    }
    let own = Partial::folder(&out).expect("a folder");
    let mut wanted = others.map(|name| home.path().join(name));
    wanted.sort();
    assert_eq!(
        sweep(&out),
        Begun {
            removed: vec![],
            kept: wanted.to_vec()
        }
    );
    assert!(own.path().exists());
}

#[test]
fn what_is_begun_for_a_name_that_begins_alike_is_not_taken_for_ones_own() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    let alike = of_another(&home.path().join("m.gguf")).expect("a start of the machine");
    fs::write(&alike, "half").expect("a file");
    for name in [
        "mm.unlocked.1-00000002.0.partial",
        "m.gguf.partial",
        "m.gguf.unlocked.1-00000002.0.partial",
        "m.7.unlocked.1-00000002.0.partial",
        "m.unlocked.1-2.0.partial",
        "m.unlocked.-00000002.0.partial",
        "m.unlocked.1-00000002..partial",
        "m.unlocked.1-00000002.partial",
        "m.0000.1-00000002.0.partial",
        "m.17-0badcafe.partial",
    ] {
        fs::write(home.path().join(name), "half").expect("a file");
    }
    let before = names(home.path());
    assert_eq!(sweep(&out), Begun::default());
    assert_eq!(names(home.path()), before);
    // Whoever writes that name does see it.
    assert_eq!(sweep(&home.path().join("m.gguf")).removed, [alike]);
}

#[test]
fn what_is_not_completed_leaves_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    let folder = Partial::folder(&out).expect("a folder");
    fs::write(folder.path().join("half"), "half").expect("a file");
    drop(folder);
    drop(Partial::file(&out).expect("a file"));
    fs::write(&out, "before").expect("a file");
    let failed = write_with(&out, |path| {
        fs::write(path, "half")?;
        Err(io::Error::from(ErrorKind::StorageFull))
    });
    assert_eq!(
        failed.expect_err("a full disk").kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(
        (
            names(home.path()),
            fs::read_to_string(&out).expect("a file")
        ),
        (vec!["m".into()], "before".into())
    );
}

#[test]
fn a_file_is_replaced_as_a_whole_by_several_writers_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let out = &out;
            scope.spawn(move || (0..20).for_each(|_| write(out, &[writer; 4096]).expect("a file")));
        }
    });
    let bytes = fs::read(&out).expect("a file");
    assert!(
        bytes.len() == 4096 && bytes.iter().all(|byte| *byte == bytes[0]),
        "a mixture"
    );
    assert_eq!(names(home.path()), ["m"]);
}

#[test]
fn a_folder_is_made_durable_with_all_that_lies_in_it() {
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("m");
    let folder = Partial::folder(&out).expect("a folder");
    let inner = folder.path().join("templates");
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("tool.jinja"), "text").expect("a file");
    fs::write(folder.path().join("config.json"), "{}").expect("a file");
    folder.sync().expect("durable files");
    folder.publish().expect("a free name");
    assert_eq!(names(&out), ["config.json", "templates"]);
    // What cannot be made durable does not get the name.
    let folder = Partial::folder(&home.path().join("other")).expect("a folder");
    std::os::unix::fs::symlink("nowhere", folder.path().join("config.json")).expect("a link");
    assert_eq!(
        folder
            .publish()
            .expect_err("a file that is not there")
            .kind(),
        ErrorKind::NotFound
    );
    assert_eq!(names(home.path()), ["m"]);
}

#[test]
fn what_has_the_name_keeps_it_be_it_a_file_or_a_folder() {
    let home = tempfile::tempdir().expect("a folder");
    for is_folder in [false, true] {
        let out = home.path().join(format!("m-{is_folder}"));
        let begin = |text: &str| {
            let partial = if is_folder {
                Partial::folder(&out)
            } else {
                Partial::file(&out)
            }
            .expect("a name");
            let file = if is_folder {
                partial.path().join("config.json")
            } else {
                partial.path().to_owned()
            };
            fs::write(file, text).expect("a file");
            partial
        };
        begin("first").publish().expect("a free name");
        assert_eq!(
            begin("second")
                .publish()
                .expect_err("the name was taken")
                .kind(),
            ErrorKind::AlreadyExists
        );
        let file = if is_folder {
            out.join("config.json")
        } else {
            out.clone()
        };
        assert_eq!(fs::read_to_string(file).expect("a file"), "first");
    }
    // An empty folder is somebody's too.
    let out = home.path().join("empty");
    fs::create_dir(&out).expect("a folder");
    assert!(Partial::folder(&out).expect("a folder").publish().is_err());
    assert_eq!(names(home.path()), ["empty", "m-false", "m-true"]);
}

#[test]
fn what_has_the_name_is_replaced_by_a_whole_file_or_folder() {
    let home = tempfile::tempdir().expect("a folder");
    let (file, folder) = (home.path().join("f"), home.path().join("d"));
    for text in ["one", "two"] {
        write(&file, text.as_bytes()).expect("a file");
        let partial = Partial::folder(&folder).expect("a folder");
        fs::write(partial.path().join(text), text).expect("a file");
        partial.replace().expect("a folder");
        assert_eq!(fs::read_to_string(&file).expect("the file"), text);
        assert_eq!(names(&folder), [text]);
    }
    assert_eq!(names(home.path()), ["d", "f"]);
}

#[test]
fn a_file_that_was_written_under_a_name_of_its_own_takes_the_place_of_another() {
    let home = tempfile::tempdir().expect("a folder");
    let (from, to) = (home.path().join("m.part"), home.path().join("m"));
    for text in ["one", "two"] {
        fs::write(&from, text).expect("a file");
        place(&from, &to).expect("a name");
        assert_eq!(fs::read_to_string(&to).expect("the file"), text);
        assert_eq!(names(home.path()), ["m"]);
    }
    assert!(place(&from, &to).is_err() && to.exists());
}

#[test]
fn what_is_no_file_is_never_replaced_by_one() {
    let home = tempfile::tempdir().expect("a folder");
    let socket = home.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&socket, &link).expect("a link");
    for out in [&socket, &link] {
        let fault = write(out, b"x").expect_err("a socket is kept");
        assert_eq!(fault.kind(), ErrorKind::InvalidInput);
        let from = home.path().join("from");
        fs::write(&from, "x").expect("a file");
        let fault = place(&from, out).expect_err("a socket is kept");
        assert_eq!(fault.kind(), ErrorKind::InvalidInput);
    }
    assert!(fs::symlink_metadata(&socket).is_ok_and(|there| !there.is_file()));
    assert!(fs::symlink_metadata(&link).is_ok_and(|there| there.is_symlink()));
    let names = fs::read_dir(home.path()).expect("a folder").count();
    assert_eq!(names, 3, "nothing is left beside them");
}
