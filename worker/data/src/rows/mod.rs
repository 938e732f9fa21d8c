//! Rows of training data, one at a time, from every supported form of file.
//!
//! JSON lines, a JSON array, or Parquet; plain, gzip or Zstandard; one file or a folder of them.
//! The first bytes of a file tell its form, not its name, since a worker gets files without their
//! names. Only one row is held at a time, whatever the size of the file.

mod columns;
mod folder;
mod head;
mod json;
mod parquet;
mod row;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use self::folder::files_of;
pub use self::row::{Place, ReadError, Row, Rows};

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

/// How messages call the rows at `path`: not by the folder that they happen to lie in on this
/// machine.
pub fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The files that `path` stands for, in the order in which they are read.
///
/// # Errors
/// It is a folder without rows, or with some in a form that is not read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    if path.is_dir() {
        files_of(path, &path.to_string_lossy())
    } else {
        Ok(vec![path.to_owned()])
    }
}

fn open_file(path: &Path, name: &str) -> Result<Rows, ReadError> {
    let io = |source| ReadError::Io {
        file: name.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let start = reader.fill_buf().map_err(io)?;
    if head::is_parquet(start) {
        return parquet::open(name, reader.into_inner());
    }
    let compressed = (head::is_gzip(start), head::is_zstd(start));
    let plain: Box<dyn BufRead> = match compressed {
        (true, _) => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(reader))),
        (_, true) => Box::new(BufReader::new(
            zstd::Decoder::with_buffer(reader).map_err(io)?,
        )),
        _ => Box::new(reader),
    };
    json::open(name, plain)
}
