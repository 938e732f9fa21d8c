//! Files of rows, in every form that is read.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use qlora_data::audit::Audit;
use qlora_data::rows::{self, Row};
use qlora_data::{Conversation, Example};
use qlora_fuzz::Target;
use serde_json::Value;

use crate::Place;

const NAME: &str = "rows";
/// Rows of one input that are looked at: some forms hold many in few bytes.
const MOST: usize = 2000;
const WORDS: [&str; 22] = [
    "\"messages\"",
    "\"conversations\"",
    "\"role\"",
    "\"content\"",
    "\"tool_calls\"",
    "\"arguments\"",
    "\"tools\"",
    "\"parameters\"",
    "\"weight\"",
    "\"assistant\"",
    "\"tool\"",
    "\"object\"",
    "\"$ref\"",
    "\"#\"",
    "\"$defs\"",
    "\"anyOf\"",
    "\"pattern\"",
    "\"(a+)+$\"",
    "\"enum\"",
    "\"required\"",
    "\n",
    "}{",
];

fn target(name: &'static str) -> Target {
    Target::new(name).words(&WORDS)
}

#[test]
fn fuzz_json_rows() {
    let place = Place::new();
    target("json_rows")
        .files("worker/data/tests/fuzz/seeds/rows", "")
        .file("worker/data/tests/conversations.json")
        .seed("[{\"text\": \"a\"},\n {\"prompt\": \"p\", \"completion\": \"c\"}]")
        .seed("{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n")
        .run(|bytes| {
            let plain = values(&place.put("rows", bytes));
            let compressed = values(&place.put("rows.gz", &gzip(bytes)));
            assert_eq!(plain, compressed, "the same rows, compressed");
        });
}

#[test]
fn fuzz_compressed_rows() {
    let place = Place::new();
    let rows = include_bytes!("seeds/rows/schemas.jsonl");
    target("compressed_rows")
        .seed(gzip(rows))
        .seed([gzip(b"{\"text\": \"a\"}\n"), gzip(b"{\"text\": \"b\"}\n")].concat())
        .seed(zstd::encode_all(&rows[..], 3).expect("bytes"))
        .seed(b"\x50\x2a\x4d\x18\x02\0\0\0ab\x28\xb5\x2f\xfd".to_vec())
        .run(|bytes| drop(values(&place.put("rows", bytes))));
}

#[test]
fn fuzz_parquet_rows() {
    let place = Place::new();
    let flat = table(
        "message row { required binary prompt (UTF8); required binary completion (UTF8); }",
        &[(&["p", "q"], None, None), (&["c", "d"], None, None)],
    );
    let repeated = Some(&[0, 1, 0, 1][..]);
    let nested = table(
        "message row { optional group messages (LIST) { repeated group list { optional group element {
            optional binary role (UTF8); optional binary content (UTF8); } } } }",
        &[
            (&["user", "assistant", "user", "assistant"], Some(&[4, 4, 4, 4]), repeated),
            (&["q", "a", "r"], Some(&[4, 4, 4, 3]), repeated),
        ],
    );
    target("parquet_rows")
        .files("worker/data/tests/fuzz/seeds/parquet", ".parquet")
        .seed(flat)
        .seed(nested)
        .run(|bytes| drop(values(&place.put("rows", bytes))));
}

/// What the rows of the file are, or why each is none; every row is held against what must be true
/// of it.
fn values(path: &Path) -> Vec<Result<Value, String>> {
    let found = match rows::open(path, NAME) {
        Ok(found) => found,
        Err(e) => return vec![Err(named(&e.to_string()))],
    };
    let mut before = 0;
    let one = |row: Result<Row, rows::ReadError>| {
        let row = row.map_err(|e| named(&e.to_string()))?;
        assert_eq!(row.place.file, NAME);
        assert!(
            row.place.line >= before,
            "line {} behind {before}",
            row.place.line
        );
        before = row.place.line;
        let value = row.value.map_err(|e| e.to_string())?;
        keeps_its_form(&value);
        Ok(value)
    };
    found.take(MOST).map(one).collect()
}

/// A fault of a file begins with its name.
fn named(fault: &str) -> String {
    assert!(fault.starts_with(NAME), "{fault}");
    fault.to_owned()
}

/// A row in which nothing is wrong is the same row once it is written down in its normal form, and
/// nothing is wrong with that one.
fn keeps_its_form(value: &Value) {
    let place = rows::Place {
        file: NAME.into(),
        line: 1,
    };
    let audited = |value: &Value| {
        Audit::default().row(Row {
            place: place.clone(),
            value: Ok(value.clone()),
        })
    };
    let Some(fixed) = audited(value).fixed else {
        return;
    };
    let text = fixed.to_string();
    let again = audited(&fixed);
    assert_eq!(again.findings, [""; 0], "{text}");
    assert_eq!(again.fixed.as_ref(), Some(&fixed));
    let (was, is) = (
        Example::from_value(value.clone()),
        Example::from_value(fixed),
    );
    assert_eq!(was, is);
    if let Ok(Example::Chat(conversation)) = is {
        assert_eq!(Conversation::parse(&text), Ok(conversation), "{text}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("bytes");
    out.finish().expect("bytes")
}

/// A column: its texts, and the levels of each, definition and repetition.
type Column<'a> = (&'a [&'a str], Option<&'a [i16]>, Option<&'a [i16]>);

/// A Parquet file of columns of text.
fn table(schema: &str, columns: &[Column<'_>]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema, Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    for (texts, defined, repeated) in columns {
        let mut column = group
            .next_column()
            .expect("a column")
            .expect("one more column");
        let values: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, *defined, *repeated)
            .expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a group");
    writer.into_inner().expect("bytes")
}
