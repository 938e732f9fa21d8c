//! Rows, files that have them, and what is read of a file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use qlora_data::rows::{ReadError, open};
use serde_json::{Value, json};

pub fn wanted() -> Vec<Value> {
    let row = |q: &str, a: &str| json!({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]});
    vec![
        row("brackets ]},[ and \"quotes\" \\", "a"),
        row("umlaut ü", "b"),
    ]
}

pub fn lines() -> String {
    wanted().iter().map(|row| format!("{row}\n")).collect()
}

pub fn read(path: &Path) -> Vec<(usize, Value)> {
    let rows = open(path, "name").expect("rows");
    let row = |row: Result<qlora_data::rows::Row, ReadError>| {
        let row = row.expect("a row");
        (row.place.line, row.value.expect("JSON"))
    };
    rows.map(row).collect()
}

pub fn values(path: &Path) -> Vec<Value> {
    read(path).into_iter().map(|(_, value)| value).collect()
}

pub fn put(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("rows");
    fs::write(&path, bytes).expect("a file");
    (home, path)
}

/// Two rows of messages; the content of the last message is missing, as columns of one schema have
/// it.
pub fn parquet_file() -> Vec<u8> {
    let schema = "message row { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let columns = [
        (vec!["user", "assistant", "user", "assistant"], [4, 4, 4, 4]),
        (vec!["q", "a", "r"], [4, 4, 4, 3]),
    ];
    for (texts, definition) in columns {
        let mut column = group
            .next_column()
            .expect("a column")
            .expect("one more column");
        let values: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&definition), Some(&[0, 1, 0, 1]))
            .expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a group");
    writer.into_inner().expect("bytes")
}
