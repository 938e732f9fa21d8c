//! The pages of a Parquet file, held against what the file has room for.
//!
//! The library makes room for whatever a page claims: bytes once unpacked, values of a dictionary,
//! lengths of texts. A file of a few hundred bytes that claims gigabytes would end the process, so
//! claims are judged here first. Bytes that are neither claims nor counts are the library's.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, FileReader, Length, RowGroupReader};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescPtr, Type as Schema};

use super::{claims, header};

/// A file whose pages are judged before they are unpacked.
pub(super) struct Judged {
    metadata: ParquetMetaData,
    source: Arc<Source>,
}

impl Judged {
    /// Reads what the file says of itself at its end; no page is read.
    pub(super) fn new(file: File) -> Result<Self> {
        Ok(Self {
            metadata: ParquetMetaDataReader::new().parse_and_finish(&file)?,
            source: Arc::new(Source(file)),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.source.len()
    }
}

impl FileReader for Judged {
    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }

    fn num_row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(Group {
            metadata: self.metadata.row_group(i),
            source: &self.source,
        }))
    }

    fn get_row_iter(&self, projection: Option<Schema>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct Group<'a> {
    metadata: &'a RowGroupMetaData,
    source: &'a Arc<Source>,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.metadata.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let chunk = self.metadata.column(i);
        let rows = usize::try_from(self.metadata.num_rows())?;
        let source = Arc::clone(self.source);
        Ok(Box::new(Pages {
            read: SerializedPageReader::new(source, chunk, rows, None)?,
            column: chunk.column_descr_ptr(),
            left: chunk.num_values(),
        }))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Schema>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// The pages of one column of a row group.
struct Pages {
    read: SerializedPageReader<Source>,
    column: ColumnDescPtr,
    /// Values of which no page has come, nulls among them.
    left: i64,
}

impl Pages {
    fn judged(&mut self, page: Option<Page>) -> Result<Option<Page>> {
        match &page {
            Some(page) => {
                claims::hold(page, &self.column).map_err(|fault| self.fault(&fault))?;
                if page.is_data_page() {
                    self.left = self.left.saturating_sub(i64::from(page.num_values()));
                }
            }
            // The library would give nulls in the place of the values that never come.
            None if self.left > 0 => {
                let fault = format!("{} of its values are in no page", self.left);
                return Err(self.fault(&fault));
            }
            None => {}
        }
        Ok(page)
    }

    fn fault(&self, fault: &str) -> ParquetError {
        let column = self.column.path().string();
        ParquetError::External(format!("column `{column}`: {fault}").into())
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.read.get_next_page()?;
        self.judged(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.read.peek_next_page()
    }

    /// Nothing skips: all rows are read. The count of values could not be held.
    fn skip_next_page(&mut self) -> Result<()> {
        Err(ParquetError::NYI("pages are read in turn".to_owned()))
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.read.at_record_boundary()
    }
}

/// The bytes of the file. What is read of it as a stream begins with the header of a page, which is
/// judged then.
struct Source(File);

impl Length for Source {
    fn len(&self) -> u64 {
        Length::len(&self.0)
    }
}

impl ChunkReader for Source {
    type T = Headed;

    fn get_read(&self, start: u64) -> Result<Headed> {
        Ok(Headed {
            read: self.0.get_read(start)?,
            is_judged: false,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// A stream whose first bytes are the header of a page. The library opens some that it does not read
/// from, at places without a header, so the header is judged when the first byte is asked for.
struct Headed {
    read: BufReader<File>,
    is_judged: bool,
}

impl Read for Headed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.is_judged {
            self.is_judged = true;
            // The buffer holds more than the longest start of a header, and keeps it for the library.
            header::hold(&mut self.read.fill_buf()?)?;
        }
        self.read.read(bytes)
    }
}
