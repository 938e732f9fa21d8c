//! Rows of a Parquet file, as the JSON values that they stand for.
//!
//! Columns of objects have one schema for all rows, so a field that one row lacks is null there: such fields are left
//! out, or every tool call would be given every argument of every tool.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record, reader::RowIter};
use serde_json::{Map, Value};

use super::{Place, ReadError, Row, Rows};

pub(super) fn open(name: &str, file: File) -> Result<Rows, ReadError> {
    let name = name.to_owned();
    let fault = |e: parquet::errors::ParquetError| ReadError::Format { file: name.clone(), fault: e.to_string() };
    let reader = SerializedFileReader::new(file).map_err(fault)?;
    let boxed: Box<dyn FileReader> = Box::new(reader);
    let records = RowIter::from_file_into(boxed);
    Ok(Box::new(records.enumerate().map(move |(i, record)| {
        let record =
            record.map_err(|e| ReadError::Format { file: name.clone(), fault: format!("row {}: {e}", i + 1) })?;
        Ok(Row { place: Place { file: name.clone(), line: i + 1 }, value: Ok(object(&record)) })
    })))
}

fn object(record: &Record) -> Value {
    let present = record.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    Value::Object(present.map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => Value::from(*v),
        Field::Byte(v) => Value::from(*v),
        Field::Short(v) => Value::from(*v),
        Field::Int(v) => Value::from(*v),
        Field::Long(v) => Value::from(*v),
        Field::UByte(v) => Value::from(*v),
        Field::UShort(v) => Value::from(*v),
        Field::UInt(v) => Value::from(*v),
        Field::ULong(v) => Value::from(*v),
        Field::Float(v) => Value::from(*v),
        Field::Double(v) => Value::from(*v),
        Field::Str(v) => Value::from(v.as_str()),
        Field::Bytes(v) => Value::from(String::from_utf8_lossy(v.data())),
        Field::Group(record) => object(record),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => {
            let key = |field: &Field| match field {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(k, v)| (key(k), value(v))).collect())
        }
        other => Value::from(other.to_string()),
    }
}
