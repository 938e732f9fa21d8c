//! Rows of a Parquet file, as the JSON values that they stand for.
//!
//! Columns of objects have one schema for all rows, so a field that one row lacks is null there.
//! Such fields are left out; otherwise every tool call would have every argument of every tool.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record, reader::RowIter};
use serde_json::{Map, Number, Value};

use super::row::{Place, ReadError, Row, Rows};
use crate::row_error::RowError;

pub(super) fn open(name: &str, file: File) -> Result<Rows, ReadError> {
    let name = name.to_owned();
    let fault = |e: parquet::errors::ParquetError| ReadError::Format {
        file: name.clone(),
        fault: e.to_string(),
    };
    let reader = SerializedFileReader::new(file).map_err(fault)?;
    let boxed: Box<dyn FileReader> = Box::new(reader);
    let records = RowIter::from_file_into(boxed);
    Ok(Box::new(records.enumerate().map(move |(i, record)| {
        let record = record.map_err(|e| ReadError::Format {
            file: name.clone(),
            fault: format!("row {}: {e}", i + 1),
        })?;
        Ok(Row {
            place: Place {
                file: name.clone(),
                line: i + 1,
            },
            value: object(&record).map_err(RowError::Value),
        })
    })))
}

fn object(record: &Record) -> Result<Value, String> {
    let mut map = Map::new();
    for (name, field) in record
        .get_column_iter()
        .filter(|(_, field)| !matches!(field, Field::Null))
    {
        map.insert(
            name.clone(),
            value(field).map_err(|fault| format!("`{name}`: {fault}"))?,
        );
    }
    Ok(Value::Object(map))
}

fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
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
        // The shortest digits that stand for it, not those of the f64 next to it.
        Field::Float(v) => fraction(v.to_string().parse().unwrap_or(f64::NAN))?,
        Field::Double(v) => fraction(*v)?,
        Field::Str(v) => Value::from(v.as_str()),
        Field::Bytes(v) => {
            Value::from(std::str::from_utf8(v.data()).map_err(|_| "the bytes are not UTF-8 text")?)
        }
        Field::Group(record) => object(record)?,
        Field::ListInternal(list) => list
            .elements()
            .iter()
            .map(value)
            .collect::<Result<_, _>>()?,
        Field::MapInternal(map) => {
            let key = |field: &Field| match field {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            let entry = |(k, v): &(Field, Field)| Ok((key(k), value(v)?));
            Value::Object(
                map.entries()
                    .iter()
                    .map(entry)
                    .collect::<Result<_, String>>()?,
            )
        }
        other => Value::from(other.to_string()),
    })
}

fn fraction(value: f64) -> Result<Value, String> {
    Number::from_f64(value)
        .map(Value::Number)
        .ok_or_else(|| format!("{value} is no number of JSON"))
}
