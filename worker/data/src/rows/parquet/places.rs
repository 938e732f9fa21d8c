//! Where the columns of a Parquet file lie, and how many values they have, by what the file says of
//! itself at its end. No page is read.

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// How a file of `bytes` with `metadata` contradicts itself.
pub(super) fn fault(metadata: &ParquetMetaData, bytes: u64) -> Option<String> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    let found = metadata.row_groups().iter().find_map(|group| {
        let (rows, given) = (group.num_rows(), group.num_columns());
        if given != columns {
            return Some(format!("{given} of {columns} columns have a place"));
        }
        let mut chunks = group.columns().iter();
        chunks.find_map(|chunk| of_chunk(chunk, rows, bytes))
    });
    found.map(|fault| {
        format!("it contradicts itself: {fault}; get the file again, or write it as JSON lines")
    })
}

fn of_chunk(chunk: &ColumnChunkMetaData, rows: i64, bytes: u64) -> Option<String> {
    let name = chunk.column_path().string();
    let start = chunk.dictionary_page_offset();
    let (start, length) = (
        start.unwrap_or(chunk.data_page_offset()),
        chunk.compressed_size(),
    );
    if !is_within(start, length, bytes) {
        return Some(format!(
            "column `{name}` lies at byte {start} and takes {length}, of {bytes} in all"
        ));
    }
    // A row has a value in every column, or a null.
    let values = chunk.num_values();
    (rows < 0 || values < rows)
        .then(|| format!("column `{name}` has {values} values in {rows} rows"))
}

fn is_within(start: i64, length: i64, bytes: u64) -> bool {
    let (Ok(start), Ok(length)) = (u64::try_from(start), u64::try_from(length)) else {
        return false;
    };
    start.checked_add(length).is_some_and(|end| end <= bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_lies_within_its_file() {
        assert!(is_within(4, 6, 10));
        for (start, length) in [(4, 7), (-1, 2), (4, -1), (i64::MAX, i64::MAX)] {
            assert!(!is_within(start, length, 10), "{start} {length}");
        }
    }
}
