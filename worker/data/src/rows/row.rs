//! A row with its place in the file, or why there is none.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::row_error::RowError;

/// Where a row stands: a file, and a line of it, or the number of the row where there are no lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A row, or why it is none; the rows after it can still be read.
#[derive(Debug)]
pub struct Row {
    pub place: Place,
    pub value: Result<Value, RowError>,
}

/// Why a file cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{file}: cannot be read: {source}")]
    Io {
        file: String,
        source: std::io::Error,
    },
    #[error("{file}: {fault}")]
    Format { file: String, fault: String },
    #[error(
        "{folder}: holds no .jsonl, .ndjson, .jsonlines, .json or .parquet files, compressed or not"
    )]
    NoFiles { folder: String },
    #[error(
        "{folder}: `{train}` is for training and `{held_out}` is held out by their names, and the rows of a folder are read together; give the one file, or a folder of each"
    )]
    Splits {
        folder: String,
        train: String,
        held_out: String,
    },
}

/// Rows in order. A file that cannot be read any further gives one error; the rows of the next file
/// follow it.
pub type Rows = Box<dyn Iterator<Item = Result<Row, ReadError>>>;
