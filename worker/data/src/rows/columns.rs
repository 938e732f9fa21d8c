//! What the columns of a Parquet file hold, judged before any row is read: pages that cannot be
//! unpacked, and values for which JSON has no form. No value is looked at.

use parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;

use crate::{message, shapes};

/// Columns that may hold messages, of which some keys alone are read.
const OF_MESSAGES: [&str; 5] = [
    "messages",
    "conversations",
    "conversation",
    "prompt",
    "completion",
];

/// Why rows of a file with `metadata` cannot be read.
pub(super) fn fault(metadata: &ParquetMetaData) -> Option<String> {
    let groups = metadata.row_groups().iter();
    let mut chunks = groups.flat_map(|group| group.columns());
    if let Some(codec) = chunks.find_map(|chunk| unread_codec(chunk.compression())) {
        return Some(format!(
            "its pages are compressed by {codec}, which is not read; write it with snappy, gzip or zstd, or as JSON lines"
        ));
    }
    let columns = metadata.file_metadata().schema_descr().columns();
    columns.iter().find_map(|column| {
        let kind = unlike_json(column)?;
        Some(format!(
            "column `{}` holds {kind}, for which JSON has no form; write it as text in the form that the model should see, or leave the column out",
            column.path().string()
        ))
    })
}

fn unread_codec(codec: Compression) -> Option<&'static str> {
    match codec {
        Compression::BROTLI(_) => Some("brotli"),
        Compression::LZ4 | Compression::LZ4_RAW => Some("lz4"),
        Compression::LZO => Some("lzo"),
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::ZSTD(_) => None,
    }
}

/// What the values of `column` are, where no JSON value is certain to be the one that was meant.
fn unlike_json(column: &ColumnDescriptor) -> Option<&'static str> {
    let kind = match (column.logical_type_ref(), column.converted_type()) {
        // The reader has no value for these, whether anything reads the column or not.
        (_, ConvertedType::INTERVAL) => return Some("spans of time"),
        (Some(LogicalType::Timestamp(_)), _)
        | (_, ConvertedType::TIMESTAMP_MILLIS | ConvertedType::TIMESTAMP_MICROS) => {
            "points in time"
        }
        (Some(LogicalType::Time(_)), _)
        | (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => "times of day",
        (Some(LogicalType::Uuid), _) => "UUIDs as bytes",
        (Some(LogicalType::Bson), _) | (_, ConvertedType::BSON) => "BSON",
        _ if column.physical_type() == Type::INT96 => "points in time",
        _ => return None,
    };
    // Of what nothing reads, the name alone is told.
    is_read(column.path().parts()).then_some(kind)
}

/// Whether the values of the column at `path` mean something to what reads rows. Between a list and
/// the keys of its items stand names that each writer chooses, so the key of a message is looked for
/// in all of the path.
fn is_read(path: &[String]) -> bool {
    let Some((top, inner)) = path.split_first() else {
        return false;
    };
    let of_message = !inner.is_empty() && OF_MESSAGES.contains(&top.as_str());
    shapes::is_read(top) && (!of_message || inner.iter().any(|part| message::is_read(part)))
}

#[cfg(test)]
mod tests {
    use parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};

    use super::*;

    #[test]
    fn pages_are_read_as_they_are_or_by_three_codecs() {
        for read in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            assert_eq!(unread_codec(read), None, "{read}");
        }
        for (unread, name) in [
            (Compression::BROTLI(BrotliLevel::default()), "brotli"),
            (Compression::LZ4, "lz4"),
            (Compression::LZ4_RAW, "lz4"),
            (Compression::LZO, "lzo"),
        ] {
            assert_eq!(unread_codec(unread), Some(name));
        }
    }
}
