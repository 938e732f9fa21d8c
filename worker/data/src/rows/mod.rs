//! Rows of training data, one at a time, from whatever file they come in.
//!
//! JSON lines, a JSON array, or Parquet; plain, gzip or Zstandard; one file or a folder of them.
//! What a file is shows in its first bytes, not in its name, since a worker gets files without
//! their names. Only one row is held at a time, whatever the size of the file.

mod json;
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

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
}

/// Rows in order. A file that cannot be read any further gives one error; the rows of the next file
/// follow it.
pub type Rows = Box<dyn Iterator<Item = Result<Row, ReadError>>>;

/// The rows of a file, or of all files of a folder in the order of their names; `name` is how
/// places call it.
///
/// # Errors
/// It does not exist, or holds nothing that could be rows.
pub fn open(path: &Path, name: &str) -> Result<Rows, ReadError> {
    if !path.is_dir() {
        return open_file(path, name);
    }
    let named = |file: PathBuf| {
        let name = format!(
            "{name}/{}",
            file.file_name().unwrap_or_default().to_string_lossy()
        );
        (file, name)
    };
    let files: Vec<_> = files_of(path, name)?.into_iter().map(named).collect();
    Ok(Box::new(files.into_iter().flat_map(
        |(file, name)| match open_file(&file, &name) {
            Ok(rows) => rows,
            Err(e) => Box::new(std::iter::once(Err(e))),
        },
    )))
}

/// The files that `path` stands for, in the order in which they are read.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    if path.is_dir() {
        files_of(path, &path.to_string_lossy())
    } else {
        Ok(vec![path.to_owned()])
    }
}

const ENDINGS: [&str; 5] = [".jsonl", ".ndjson", ".jsonlines", ".json", ".parquet"];

fn files_of(folder: &Path, name: &str) -> Result<Vec<PathBuf>, ReadError> {
    let entries = std::fs::read_dir(folder).map_err(|source| ReadError::Io {
        file: name.to_owned(),
        source,
    })?;
    let paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(|source| ReadError::Io {
        file: name.to_owned(),
        source,
    })?;
    paths.sort();
    if let Some((path, fault)) = paths
        .iter()
        .find_map(|path| Some((path, passed_over(path)?)))
    {
        return Err(ReadError::Format {
            file: format!("{name}/{}", plain_name(path)),
            fault: fault.to_owned(),
        });
    }
    let files: Vec<PathBuf> = paths.into_iter().filter(|path| is_data(path)).collect();
    if files.is_empty() {
        Err(ReadError::NoFiles {
            folder: name.to_owned(),
        })
    } else {
        Ok(files)
    }
}

/// Files of rows in forms that are not read.
const OTHER_ENDINGS: [&str; 12] = [
    ".csv", ".tsv", ".arrow", ".feather", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".bak", ".avro",
    ".orc",
];

/// What `datasets` writes beside its files.
const ABOUT: [&str; 2] = ["dataset_infos.json", "dataset_info.json"];

/// Folders within folders in which rows are looked for.
const DEPTH: usize = 8;

fn plain_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_data(path: &Path) -> bool {
    path.is_file() && is_named_data(path)
}

fn is_ignored(name: &str) -> bool {
    name.starts_with('.') || ABOUT.contains(&name)
}

fn is_named_data(path: &Path) -> bool {
    let name = plain_name(path).to_lowercase();
    let plain = name.trim_end_matches(".gz").trim_end_matches(".zst");
    !is_ignored(&name) && ENDINGS.iter().any(|ending| plain.ends_with(ending))
}

/// Whether the name is that of rows which are not read: another form, or a form that is read with
/// more behind it.
fn is_named_other(path: &Path) -> bool {
    let name = plain_name(path).to_lowercase();
    let plain = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let more = ENDINGS
        .iter()
        .any(|ending| name.contains(&format!("{ending}.")) || name.contains(&format!("{ending}~")));
    !is_ignored(&name)
        && !is_named_data(path)
        && (more || OTHER_ENDINGS.iter().any(|ending| plain.ends_with(ending)))
}

/// Why an entry of a folder that looks like rows is not read.
fn passed_over(path: &Path) -> Option<&'static str> {
    if path.is_dir() {
        let holds = !is_ignored(&plain_name(path)) && holds_rows(path, DEPTH);
        return holds
            .then_some("is a folder that holds rows, and folders within folders are not read; move its files up");
    }
    if is_named_other(path) {
        return Some(
            "looks like rows in a form that is not read; write .jsonl, .json or .parquet, plain, .gz or .zst, or move it away",
        );
    }
    (is_named_data(path) && !path.is_file()).then_some("is no file, or a link that leads to none")
}

fn holds_rows(folder: &Path, depth: usize) -> bool {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let is_rows = |path: &Path| match path.is_dir() {
        true => depth > 0 && !is_ignored(&plain_name(path)) && holds_rows(path, depth - 1),
        false => is_named_data(path) || is_named_other(path),
    };
    entries.into_iter().any(|path| is_rows(&path))
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET: &[u8] = b"PAR1";

fn open_file(path: &Path, name: &str) -> Result<Rows, ReadError> {
    let io = |source| ReadError::Io {
        file: name.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let start = reader.fill_buf().map_err(io)?;
    if start.starts_with(PARQUET) {
        return parquet::open(name, reader.into_inner());
    }
    let compressed = (start.starts_with(GZIP), start.starts_with(ZSTD));
    let plain: Box<dyn BufRead> = match compressed {
        (true, _) => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(reader))),
        (_, true) => Box::new(BufReader::new(
            zstd::Decoder::with_buffer(reader).map_err(io)?,
        )),
        _ => Box::new(reader),
    };
    json::open(name, plain)
}
