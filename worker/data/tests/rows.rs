//! The same rows out of every form of file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use qlora_data::rows::{ReadError, open};
use serde_json::{Value, json};

fn wanted() -> Vec<Value> {
    let row =
        |q: &str, a: &str| json!({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]});
    vec![row("brackets ]},[ and \"quotes\" \\", "a"), row("umlaut ü", "b")]
}

fn lines() -> String {
    wanted().iter().map(|row| format!("{row}\n")).collect()
}

fn read(path: &Path) -> Vec<(usize, Value)> {
    let rows = open(path, "name").expect("rows");
    let row = |row: Result<qlora_data::rows::Row, ReadError>| {
        let row = row.expect("a row");
        (row.place.line, row.value.expect("JSON"))
    };
    rows.map(row).collect()
}

fn values(path: &Path) -> Vec<Value> {
    read(path).into_iter().map(|(_, value)| value).collect()
}

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
        ("zstd", zstd),
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
    assert!(matches!(open(empty.path(), "x").err(), Some(ReadError::NoFiles { .. })));
}

#[test]
fn rows_are_numbered_by_their_lines_and_a_broken_one_does_not_hide_the_next() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    fs::write(&path, "\n{\"text\": 1}\n\nbroken\n{\"text\": 2}\n").expect("a file");
    let rows: Vec<_> = open(&path, "name").expect("rows").map(|row| row.expect("a row")).collect();
    let seen: Vec<_> = rows.iter().map(|row| (row.place.to_string(), row.value.is_ok())).collect();
    assert_eq!(seen, [("name:2".to_owned(), true), ("name:4".to_owned(), false), ("name:5".to_owned(), true)]);
    fs::write(&path, "[\n  {\"text\": 1},\n\n  {\"text\":\n 2}\n]").expect("a file");
    assert_eq!(read(&path).into_iter().map(|(line, _)| line).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn files_that_break_off_say_so() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    let zstd = zstd::encode_all(lines().repeat(100).as_bytes(), 3).expect("bytes");
    for bytes in [b"[{\"text\": 1}, {\"te".to_vec(), zstd[..zstd.len() - 4].to_vec(), b"PAR1 and no more".to_vec()] {
        fs::write(&path, bytes).expect("a file");
        let fault = match open(&path, "name") {
            Err(e) => e.to_string(),
            Ok(rows) => rows.filter_map(Result::err).next().expect("a fault").to_string(),
        };
        assert!(fault.starts_with("name: "), "{fault}");
    }
}

/// Two rows of messages; the content of the last message is missing, as columns of one schema have it.
fn parquet_file() -> Vec<u8> {
    let schema = "message row { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let columns = [(vec!["user", "assistant", "user", "assistant"], [4, 4, 4, 4]), (vec!["q", "a", "r"], [4, 4, 4, 3])];
    for (texts, definition) in columns {
        let mut column = group.next_column().expect("a column").expect("one more column");
        let values: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&definition), Some(&[0, 1, 0, 1])).expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a group");
    writer.into_inner().expect("bytes")
}

#[test]
fn parquet_rows_leave_out_what_is_null() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    fs::write(&path, parquet_file()).expect("a file");
    let rows = read(&path);
    assert_eq!(
        rows[0].1,
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    );
    assert_eq!(rows[1], (2, json!({"messages": [{"role": "user", "content": "r"}, {"role": "assistant"}]})));
}
