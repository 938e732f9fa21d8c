//! The counts that an unpacked page claims: the library makes room for so many values before it
//! looks for the first.

use parquet::basic::{Encoding, Type};
use parquet::column::page::Page;
use parquet::schema::types::ColumnDescriptor;

use super::deltas;

/// Refuses a page whose bytes cannot hold the values that it claims.
pub(super) fn hold(page: &Page, column: &ColumnDescriptor) -> Result<(), String> {
    let (bytes, count) = (page.buffer(), page.num_values());
    if page.is_dictionary_page() {
        let most = bytes.len() / least_bytes(column);
        return match usize::try_from(count) {
            Ok(count) if count <= most => Ok(()),
            _ => Err(format!(
                "a dictionary of {} bytes claims {count} values",
                bytes.len()
            )),
        };
    }
    let of_suffixes = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => false,
        Encoding::DELTA_BYTE_ARRAY => true,
        _ => return Ok(()),
    };
    // What is cut off is the library's to refuse: it looks for the levels before it makes room.
    let Some(values) = values(page, column) else {
        return Ok(());
    };
    deltas::hold(values, u64::from(count), of_suffixes)
}

/// Bytes that a value takes in a dictionary, at the least.
fn least_bytes(column: &ColumnDescriptor) -> usize {
    match column.physical_type() {
        // Eight lie in a byte, and nobody makes a dictionary of two values.
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or(1).max(1),
    }
}

/// The bytes of a data page behind the levels of its values.
fn values<'a>(page: &'a Page, column: &ColumnDescriptor) -> Option<&'a [u8]> {
    let levels = [column.max_rep_level(), column.max_def_level()];
    match page {
        Page::DataPage {
            buf,
            num_values,
            def_level_encoding,
            rep_level_encoding,
            ..
        } => {
            let encodings = [rep_level_encoding, def_level_encoding];
            let given = levels
                .into_iter()
                .zip(encodings)
                .filter(|(most, _)| *most > 0);
            given.map(|(most, encoding)| (most, *encoding)).try_fold(
                &buf[..],
                |rest, (most, encoding)| {
                    rest.get(level_bytes(rest, most, encoding, *num_values)?..)
                },
            )
        }
        Page::DataPageV2 {
            buf,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => {
            let bytes = def_levels_byte_len.checked_add(*rep_levels_byte_len)?;
            buf.get(usize::try_from(bytes).ok()?..)
        }
        Page::DictionaryPage { .. } => None,
    }
}

/// Bytes that the levels at the start of `rest` take.
fn level_bytes(rest: &[u8], most: i16, encoding: Encoding, count: u32) -> Option<usize> {
    if encoding == Encoding::RLE {
        let length = rest.first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        return length.checked_add(4);
    }
    let bits = u64::from(i16::BITS - most.leading_zeros());
    let bytes = (u64::from(count) * bits).div_ceil(8);
    usize::try_from(bytes).ok()
}
