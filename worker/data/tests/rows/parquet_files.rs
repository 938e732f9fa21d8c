//! Rows out of files of Parquet.

use std::fs;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use qlora_data::rows::open;
use serde_json::json;

use crate::fixture::{parquet_file, put, read, values};

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
    assert_eq!(
        rows[1],
        (
            2,
            json!({"messages": [{"role": "user", "content": "r"}, {"role": "assistant"}]})
        )
    );
}

#[test]
fn a_page_that_cannot_be_read_ends_the_rows_of_its_file_with_one_fault() {
    let mut bytes = parquet_file();
    // The header of the first page.
    bytes[4..12].fill(0xff);
    let (_home, path) = put(&bytes);
    let mut rows = open(&path, "name").expect("rows");
    let fault = rows.find_map(Result::err).expect("a fault").to_string();
    assert!(fault.starts_with("name: row 1 cannot be read"), "{fault}");
    assert!(rows.next().is_none(), "nothing follows a fault");
}

/// A file without rows whose columns are as in `schema`.
fn without_rows(schema: &str) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    writer.into_inner().expect("bytes")
}

#[test]
fn columns_of_values_that_json_has_no_form_for_are_refused_by_name_and_type_where_they_are_read() {
    for (column, wanted) in [
        (
            "optional group tools { optional int64 at (TIMESTAMP(MICROS,false)); }",
            "column `tools.at` holds points in time",
        ),
        (
            "optional int64 input (TIMESTAMP(NANOS,true));",
            "column `input` holds points in time",
        ),
        (
            "optional int32 output (TIME_MILLIS);",
            "column `output` holds times of day",
        ),
        ("optional int96 text;", "column `text` holds points in time"),
        ("optional int64 created (TIMESTAMP(MICROS,false));", ""),
        (
            "optional group conversation (LIST) { repeated group list { optional group element {
                optional binary content (UTF8); optional int64 timestamp (TIMESTAMP(MILLIS,true)); } } }",
            "",
        ),
        (
            "optional group messages (LIST) { repeated group list { optional group element {
                optional int64 content (TIMESTAMP(MILLIS,true)); } } }",
            "column `messages.list.element.content` holds points in time",
        ),
        (
            "optional group messages (LIST) { repeated group bag { optional group array_element {
                optional group tool_calls (LIST) { repeated group list { optional group element {
                optional group arguments { optional int64 at (TIMESTAMP(MILLIS,true)); } } } } } } }",
            "arguments.at` holds points in time",
        ),
        (
            "optional group history (LIST) { repeated group list { optional int64 element (TIMESTAMP(MILLIS,true)); } }",
            "column `history.list.element` holds points in time",
        ),
        ("optional int32 output (DATE);", ""),
    ] {
        let (_home, path) = put(&without_rows(&format!("message row {{ {column} }}")));
        let said = open(&path, "name")
            .err()
            .map(|fault| fault.to_string())
            .unwrap_or_default();
        assert!(said.contains(wanted), "{column}: {said}");
        assert_eq!(said.is_empty(), wanted.is_empty(), "{column}: {said}");
        assert!(wanted.is_empty() || said.contains("write it as text"));
    }
}

#[test]
fn decimal_numbers_of_parquet_are_the_numbers_that_their_digits_stand_for() {
    let schema = "message row { required int32 input (DECIMAL(4,2)); required int64 output (DECIMAL(18,0)); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("a column").expect("the first");
    column
        .typed::<Int32Type>()
        .write_batch(&[150, -7], None, None)
        .expect("values");
    column.close().expect("a column");
    let mut column = group.next_column().expect("a column").expect("the second");
    column
        .typed::<Int64Type>()
        .write_batch(&[3, 123_456_789_012], None, None)
        .expect("values");
    column.close().expect("a column");
    group.close().expect("a group");
    let (_home, path) = put(&writer.into_inner().expect("bytes"));
    assert_eq!(
        values(&path),
        [
            json!({"input": 1.5, "output": 3}),
            json!({"input": -0.07, "output": 123_456_789_012_i64})
        ]
    );
}

#[test]
fn a_parquet_file_that_claims_what_it_cannot_hold_is_refused_by_name() {
    // The library panics at the first, and would make room for 33 GB to read the second.
    let files: [(&[u8], &str); 2] = [
        (
            include_bytes!("../fuzz/seeds/parquet/negative_place.parquet"),
            "it contradicts itself: column `completion` lies at byte 48 and takes -16",
        ),
        (
            include_bytes!("../fuzz/seeds/parquet/33_gigabytes.parquet"),
            "column `completion`: a dictionary of 10 bytes claims ",
        ),
    ];
    for (bytes, wanted) in files {
        let (_home, path) = put(bytes);
        let fault = match open(&path, "name") {
            Ok(mut rows) => rows.find_map(Result::err),
            Err(e) => Some(e),
        };
        let fault = fault.expect("a fault").to_string();
        assert!(
            fault.starts_with("name: ") && fault.contains(wanted),
            "{fault}"
        );
    }
}

#[test]
fn a_parquet_file_whose_values_end_early_gives_no_rows_of_nulls() {
    let schema = "message row { optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema, Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("a column").expect("the first");
    let text = [ByteArray::from("a")];
    column
        .typed::<ByteArrayType>()
        .write_batch(&text, Some(&[1]), None)
        .expect("values");
    column.close().expect("a column");
    group.close().expect("a group");
    let mut bytes = writer.into_inner().expect("bytes");
    // The counts of rows and of values, where the file tells of itself: one becomes sixty.
    let one = [0x16, 2];
    let end = bytes.len() - 8;
    let (length, _) = bytes[end..].split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
    for at in end - length as usize..end - 1 {
        if bytes[at..at + 2] == one {
            bytes[at + 1] = 120;
        }
    }
    let (_home, path) = put(&bytes);
    let rows: Vec<_> = open(&path, "name").expect("rows").collect();
    let fault = rows
        .last()
        .and_then(|row| row.as_ref().err())
        .expect("a fault");
    assert!(
        fault
            .to_string()
            .contains("59 of its values are in no page"),
        "{fault}"
    );
    assert!(rows.len() < 3, "{} rows", rows.len());
}
