//! Rows of a Parquet file, as the JSON values that they stand for.
//!
//! Columns of objects have one schema for all rows, so a field that one row lacks is null there.
//! Such fields are left out; otherwise every tool call would have every argument of every tool.

mod claims;
mod deltas;
mod header;
mod pages;
mod places;

use std::fs::File;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::record::{Field, Row as Record, reader::RowIter};
use serde_json::{Map, Number, Value};

use self::pages::Judged;
use super::columns;
use super::row::{Place, ReadError, Row, Rows};
use crate::guarded::guarded;
use crate::row_error::RowError;
use crate::strict;

pub(super) fn open(name: &str, file: File) -> Result<Rows, ReadError> {
    let fault = |fault: String| ReadError::Format {
        file: name.to_owned(),
        fault,
    };
    let reader = guarded(|| Judged::new(file)).map_err(fault)?;
    let reader = reader.map_err(|e| fault(told(e)))?;
    let metadata = reader.metadata();
    if let Some(found) =
        columns::fault(metadata).or_else(|| places::fault(metadata, reader.bytes()))
    {
        return Err(fault(found));
    }
    let boxed: Box<dyn FileReader> = Box::new(reader);
    Ok(Box::new(Records {
        name: name.to_owned(),
        rows: Some(RowIter::from_file_into(boxed)),
        read: 0,
    }))
}

/// Rows up to the first that cannot be read. The iterator of `parquet` stays where a page fails,
/// and gives the same error for ever; at places and counts that cannot be it panics.
struct Records {
    name: String,
    /// None behind an error.
    rows: Option<RowIter<'static>>,
    read: usize,
}

impl Iterator for Records {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        let record = match guarded(|| rows.next()) {
            Ok(record) => record?.map_err(told),
            Err(fault) => Err(fault),
        };
        self.read += 1;
        let (file, line) = (self.name.clone(), self.read);
        Some(match record {
            Ok(record) => Ok(Row {
                place: Place { file, line },
                value: object(&record).map_err(RowError::Value),
            }),
            Err(e) => {
                self.rows = None;
                Err(ReadError::Format {
                    file,
                    fault: format!("row {line} cannot be read, nor what follows it: {e}"),
                })
            }
        })
    }
}

/// What is wrong, without the name that the library has for faults of others.
fn told(error: ParquetError) -> String {
    match error {
        ParquetError::External(fault) => fault.to_string(),
        error => error.to_string(),
    }
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
        Field::Float16(v) => fraction(f64::from(v.to_f32()))?,
        // As its digits are read where they stand in JSON; the point of a whole one has none behind
        // it.
        decimal @ Field::Decimal(_) => {
            let digits = decimal.to_string();
            strict::parse(digits.trim_end_matches('.')).map_err(|e| e.to_string())?
        }
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
