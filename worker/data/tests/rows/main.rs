//! The same rows out of every form of file.

mod fixture;
mod parquet_files;

use std::fs;
use std::io::Write;
use std::path::Path;

use qlora_data::rows::{ReadError, open};
use serde_json::{Value, json};

use crate::fixture::{lines, parquet_file, put, read, values, wanted};

#[test]
fn lines_arrays_and_compressed_files_give_the_same_rows_whatever_their_names() {
    let home = tempfile::tempdir().expect("a folder");
    let put = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let pretty = serde_json::to_string_pretty(&wanted()).expect("JSON");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines().as_bytes()).expect("bytes");
    let zstd = zstd::encode_all(pretty.as_bytes(), 3).expect("bytes");
    for (name, bytes) in [
        ("lines", lines().into_bytes()),
        ("marked", [b"\xef\xbb\xbf", lines().as_bytes()].concat()),
        ("array", pretty.clone().into_bytes()),
        ("dense", Value::from(wanted()).to_string().into_bytes()),
        ("gzip", gzip.finish().expect("bytes")),
        ("zstd", zstd.clone()),
        (
            "skipped",
            [
                b"\x50\x2a\x4d\x18\x04\0\0\0abcd".as_slice(),
                zstd.as_slice(),
            ]
            .concat(),
        ),
        (
            "skipped twice",
            [
                b"\x5f\x2a\x4d\x18\0\0\0\0\x53\x2a\x4d\x18\x01\0\0\0a".as_slice(),
                zstd.as_slice(),
            ]
            .concat(),
        ),
    ] {
        assert_eq!(values(&put(name, &bytes)), wanted(), "{name}");
    }
}

#[test]
fn a_folder_is_read_file_by_file() {
    let home = tempfile::tempdir().expect("a folder");
    let all = wanted();
    fs::write(home.path().join("b.jsonl"), all[1].to_string()).expect("a file");
    fs::write(home.path().join("a.json"), format!("[{}]", all[0])).expect("a file");
    fs::write(home.path().join("README.md"), "no rows").expect("a file");
    assert_eq!(values(home.path()), all);
    let empty = tempfile::tempdir().expect("a folder");
    assert!(matches!(
        open(empty.path(), "x").err(),
        Some(ReadError::NoFiles { .. })
    ));
}

#[test]
fn rows_are_numbered_by_their_lines_and_a_broken_one_does_not_hide_the_next() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    fs::write(&path, "\n{\"text\": 1}\n\nbroken\n{\"text\": 2}\n").expect("a file");
    let rows: Vec<_> = open(&path, "name")
        .expect("rows")
        .map(|row| row.expect("a row"))
        .collect();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.place.to_string(), row.value.is_ok()))
        .collect();
    assert_eq!(
        seen,
        [
            ("name:2".to_owned(), true),
            ("name:4".to_owned(), false),
            ("name:5".to_owned(), true)
        ]
    );
    fs::write(&path, "[\n  {\"text\": 1},\n\n  {\"text\":\n 2}\n]").expect("a file");
    assert_eq!(
        read(&path)
            .into_iter()
            .map(|(line, _)| line)
            .collect::<Vec<_>>(),
        [2, 4]
    );
}

/// The rows that were read, and the fault that ended the reading.
fn read_to_a_fault(path: &Path) -> (usize, String) {
    let mut read = 0;
    let rows = match open(path, "name") {
        Ok(rows) => rows,
        Err(e) => return (0, e.to_string()),
    };
    for row in rows {
        match row {
            Ok(_) => read += 1,
            Err(e) => return (read, e.to_string()),
        }
    }
    (read, String::new())
}

#[test]
fn a_foreign_byte_is_a_finding_of_its_row_and_hides_no_other() {
    let rows: [&[u8]; 3] = [
        b"{\"text\": \"a\"}",
        b"{\"text\": \"\xe5n\"}",
        b"{\"text\": \"b\"}",
    ];
    let list = [b"[".as_slice(), &rows.join(b", ".as_slice()), b"]"].concat();
    for bytes in [rows.join(b"\n".as_slice()), list] {
        let (_home, path) = put(&bytes);
        let rows: Vec<_> = open(&path, "name")
            .expect("rows")
            .map(|row| row.expect("a row"))
            .collect();
        let faults: Vec<String> = rows
            .iter()
            .filter_map(|row| Some(row.value.as_ref().err()?.to_string()))
            .collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(
            faults,
            ["the row is not UTF-8: byte 0xe5 at column 11; save the file as UTF-8"]
        );
        assert!(rows[0].value.is_ok() && rows[2].value.is_ok());
    }
}

#[test]
fn other_encodings_are_named() {
    let text = lines();
    let units =
        |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let wide = |bytes: fn(u32) -> [u8; 4]| {
        text.chars()
            .flat_map(|c| bytes(c as u32))
            .collect::<Vec<u8>>()
    };
    for (bytes, named) in [
        (
            [b"\xff\xfe".to_vec(), units(u16::to_le_bytes)].concat(),
            "UTF-16",
        ),
        (
            [b"\xfe\xff".to_vec(), units(u16::to_be_bytes)].concat(),
            "UTF-16",
        ),
        (units(u16::to_le_bytes), "UTF-16"),
        (units(u16::to_be_bytes), "UTF-16"),
        (wide(u32::to_le_bytes), "UTF-32"),
        (
            [b"\0\0\xfe\xff".to_vec(), wide(u32::to_be_bytes)].concat(),
            "UTF-32",
        ),
    ] {
        let (_home, path) = put(&bytes);
        let (read, fault) = read_to_a_fault(&path);
        assert_eq!(
            (read, fault),
            (0, format!("name: the file is {named}; save it as UTF-8"))
        );
    }
    let row = wanted()[0].to_string();
    let (_home, path) = put(format!("\u{feff}{row}\n\u{feff}{row}\n").as_bytes());
    assert_eq!(
        values(&path),
        [wanted()[0].clone(), wanted()[0].clone()],
        "marks at the seams of joined files"
    );
}

#[test]
fn whatever_follows_a_list_is_refused() {
    let row = wanted()[0].to_string();
    for (text, rows, named) in [
        (
            format!("[{row}, {row}]\n{row}\n"),
            2,
            "the list ends at line 1, and more follows at line 2",
        ),
        (format!("[{row}][{row}]"), 1, "more follows at line 1"),
        (format!("[\n{row}\n] x"), 1, "the list ends at line 3"),
        (
            format!("[{row}"),
            0,
            "the row that begins at line 1 of the list does not end",
        ),
        (format!("[{row}, "), 1, "its `]` is missing"),
        (
            format!("[{row},\n]"),
            1,
            "a comma stands before the end of the list at line 2",
        ),
    ] {
        let (_home, path) = put(text.as_bytes());
        let (read, fault) = read_to_a_fault(&path);
        assert!(
            read == rows && fault.contains(named),
            "{text}: {read} rows, {fault}"
        );
    }
    let (_home, path) = put(format!("[{row}, {row}]\n\n \t").as_bytes());
    assert_eq!(read_to_a_fault(&path), (2, String::new()));
}

#[test]
fn a_broken_row_has_one_line() {
    let (_home, path) = put(b"{\"text\": 1}\n{\"text\": 1, }\n");
    let row = open(&path, "name")
        .expect("rows")
        .nth(1)
        .expect("a row")
        .expect("a row");
    let fault = row.value.expect_err("a fault").to_string();
    assert!(
        fault.contains(" at column ") && !fault.contains("line"),
        "{fault}"
    );
}

#[test]
fn entries_that_look_like_rows_are_read_or_named() {
    let set = |name: &str| {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join("rows.jsonl"), lines()).expect("a file");
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, "x").expect("a file");
        home
    };
    for name in [
        "a.csv",
        "a.jsonl.bz2",
        "a.jsonl.xz",
        "a.arrow",
        "rows.jsonl.bak",
        "a.parquet.1",
    ] {
        let fault = open(set(name).path(), "set").err().expect(name).to_string();
        assert!(
            fault.starts_with(&format!("set/{name}: looks like rows")),
            "{fault}"
        );
    }
    let fault = open(set("part/deep/a.jsonl").path(), "set")
        .err()
        .expect("a fault")
        .to_string();
    assert!(
        fault.starts_with("set/part: is a folder that holds rows"),
        "{fault}"
    );
    for name in [
        "README.md",
        "LICENSE",
        ".a.csv",
        ".cache/a.jsonl",
        "dataset_infos.json",
        "notes/a.md",
    ] {
        assert_eq!(values(set(name).path()), wanted(), "{name}");
    }
    let home = set("README.md");
    std::os::unix::fs::symlink("nowhere", home.path().join("b.jsonl")).expect("a link");
    let fault = open(home.path(), "set").err().expect("a fault").to_string();
    assert!(
        fault.starts_with("set/b.jsonl: is no file, or a link"),
        "{fault}"
    );
}

#[test]
fn one_object_over_several_lines_is_one_message() {
    let pretty = serde_json::to_string_pretty(&json!({"data": wanted()})).expect("JSON");
    let (_home, path) = put(format!("\n{pretty}\n").as_bytes());
    let (read, fault) = read_to_a_fault(&path);
    assert!(
        read == 0 && fault.contains("begins at line 2 goes on over several lines"),
        "{fault}"
    );
    let (_home, path) = put(format!("{{\"text\": \n{}", lines()).as_bytes());
    let rows: Vec<_> = open(&path, "name")
        .expect("rows")
        .map(|row| row.expect("a row").value.is_ok())
        .collect();
    assert_eq!(
        rows,
        [false, true, true],
        "a row that breaks off hides none of those behind it"
    );
}

#[test]
fn a_file_without_rows_hides_no_other_of_its_folder() {
    let home = tempfile::tempdir().expect("a folder");
    fs::write(home.path().join("about.json"), "{\n \"set\": 1\n}\n").expect("a file");
    fs::write(home.path().join("rows.ndjson"), lines()).expect("a file");
    let rows: Vec<_> = open(home.path(), "set").expect("rows").collect();
    assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 2);
    let fault = rows
        .into_iter()
        .find_map(Result::err)
        .expect("a fault")
        .to_string();
    assert!(fault.starts_with("set/about.json: "), "{fault}");
}

#[test]
fn files_that_break_off_say_so() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    let zstd = zstd::encode_all(lines().repeat(100).as_bytes(), 3).expect("bytes");
    for bytes in [
        b"[{\"text\": 1}, {\"te".to_vec(),
        zstd[..zstd.len() - 4].to_vec(),
        b"PAR1 and no more".to_vec(),
    ] {
        fs::write(&path, bytes).expect("a file");
        let fault = match open(&path, "name") {
            Err(e) => e.to_string(),
            Ok(rows) => rows
                .filter_map(Result::err)
                .next()
                .expect("a fault")
                .to_string(),
        };
        assert!(fault.starts_with("name: "), "{fault}");
    }
}

#[test]
fn files_that_begin_as_rows_are_named_whatever_they_are_called() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines().as_bytes()).expect("bytes");
    let gzip = gzip.finish().expect("bytes");
    let zstd = zstd::encode_all(lines().as_bytes(), 3).expect("bytes");
    for (name, bytes) in [
        ("b.txt", lines().into_bytes()),
        ("data", lines().into_bytes()),
        ("part-0", format!("[\n  {}]", wanted()[0]).into_bytes()),
        ("a.json5", b"{messages: []}".to_vec()),
        ("b.gz", gzip.clone()),
        ("b", gzip),
        ("b.zst", zstd),
        ("c", parquet_file()),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join("a.jsonl"), lines()).expect("a file");
        fs::write(home.path().join(name), &bytes).expect("a file");
        let fault = open(home.path(), "set").err().expect(name).to_string();
        assert!(
            fault.starts_with(&format!("set/{name}: looks like rows")),
            "{fault}"
        );
        let outer = tempfile::tempdir().expect("a folder");
        fs::write(outer.path().join("a.jsonl"), lines()).expect("a file");
        fs::create_dir(outer.path().join("more")).expect("a folder");
        fs::write(outer.path().join("more").join(name), &bytes).expect("a file");
        let fault = open(outer.path(), "set").err().expect(name).to_string();
        assert!(
            fault.starts_with("set/more: is a folder that holds rows"),
            "{fault}"
        );
    }
    for (name, text) in [
        ("README.md", "[![badge](a.svg)](b)"),
        ("notes.txt", "Rows of 2024."),
        ("settings.yaml", "a: 1"),
        ("settings.ini", "[section]"),
        ("chat_template.jinja", "{% for m in messages %}"),
        ("checksums", ""),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join("a.jsonl"), lines()).expect("a file");
        fs::write(home.path().join(name), text).expect("a file");
        assert_eq!(values(home.path()), wanted(), "{name}");
    }
}

#[test]
fn a_folder_of_rows_to_train_on_and_rows_held_out_is_refused() {
    let set = |names: &[&str]| {
        let home = tempfile::tempdir().expect("a folder");
        for name in names {
            fs::write(home.path().join(name), lines()).expect("a file");
        }
        home
    };
    for (train, held_out) in [
        ("train.jsonl", "test.jsonl"),
        ("train.jsonl", "validation.jsonl"),
        ("train-00000-of-00001.jsonl", "valid-00000-of-00001.jsonl"),
        ("my_train.json", "my_eval.json"),
        ("TRAIN.jsonl", "dev1.jsonl"),
        ("training.jsonl", "val.jsonl"),
        ("train.jsonl", "heldout.jsonl"),
    ] {
        let home = set(&[train, held_out]);
        let fault = open(home.path(), "set").err().expect(held_out).to_string();
        assert!(
            fault.starts_with(&format!("set: `{train}` is for training and `{held_out}`"))
                && fault.contains("give the one file, or a folder of each"),
            "{fault}"
        );
    }
    for names in [
        &["train-0.jsonl", "train-1.jsonl"][..],
        &["test.jsonl", "dev.jsonl"],
        &["train.jsonl", "latest.jsonl"],
        &["train.jsonl", "train-dev.jsonl"],
    ] {
        let home = set(names);
        assert_eq!(values(home.path()).len(), 2 * names.len(), "{names:?}");
    }
}
