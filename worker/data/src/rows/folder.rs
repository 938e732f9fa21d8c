//! The files of a folder that hold rows. A file that looks like rows but is not read is refused:
//! otherwise a part of the data would be left out silently. The first bytes of a file are read if
//! its name says nothing. Files whose names say that some are for training and some are held out
//! are refused too: read together, they would all be trained on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::head;
use super::row::ReadError;

const ENDINGS: [&str; 5] = [".jsonl", ".ndjson", ".jsonlines", ".json", ".parquet"];

/// Files of rows in forms that are not read.
const OTHER_ENDINGS: [&str; 14] = [
    ".csv", ".tsv", ".arrow", ".feather", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".bak", ".avro",
    ".orc", ".json5", ".jsonc",
];

/// Words of names that say what rows are for.
const TRAIN: [&str; 2] = ["train", "training"];
const HELD_OUT: [&str; 10] = [
    "test",
    "testing",
    "validation",
    "valid",
    "val",
    "eval",
    "evaluation",
    "dev",
    "held",
    "heldout",
];

/// Bytes that are looked at where a name says nothing: more than the white space before a row.
const HEAD: u64 = 256;

/// What `datasets` writes beside its files.
const ABOUT: [&str; 2] = ["dataset_infos.json", "dataset_info.json"];

/// Folders within folders in which rows are looked for.
const DEPTH: usize = 8;

/// The files of rows in `folder`, in the order of their names; messages call it `name`.
pub(super) fn files_of(folder: &Path, name: &str) -> Result<Vec<PathBuf>, ReadError> {
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
        return Err(ReadError::NoFiles {
            folder: name.to_owned(),
        });
    }
    match splits(&files) {
        Some((train, held_out)) => Err(ReadError::Splits {
            folder: name.to_owned(),
            train,
            held_out,
        }),
        None => Ok(files),
    }
}

/// A file whose name says that it is trained on, and one whose name says that it is held out.
fn splits(files: &[PathBuf]) -> Option<(String, String)> {
    let names = || files.iter().map(|path| plain_name(path));
    let train = names().find(|name| says(name, &TRAIN))?;
    let held_out = names().find(|name| says(name, &HELD_OUT) && !says(name, &TRAIN))?;
    Some((train, held_out))
}

/// Whether one of `words` stands in `name` by itself, as in `train-00000-of-00002.parquet`.
fn says(name: &str, words: &[&str]) -> bool {
    let name = name.to_lowercase();
    let mut parts = name.split(|c: char| !c.is_alphabetic());
    parts.any(|part| words.contains(&part))
}

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

/// Whether a file whose name says nothing begins as rows do, or is compressed, so that it may hold
/// some.
fn begins_as_rows(path: &Path) -> bool {
    let mut start = Vec::new();
    let is_read = !is_ignored(&plain_name(path))
        && !is_named_data(path)
        && path.is_file()
        && File::open(path).is_ok_and(|file| file.take(HEAD).read_to_end(&mut start).is_ok());
    is_read && head::is_of_rows(&start)
}

/// Why an entry of a folder that looks like rows is not read.
fn passed_over(path: &Path) -> Option<&'static str> {
    if path.is_dir() {
        let holds = !is_ignored(&plain_name(path)) && holds_rows(path, DEPTH);
        return holds
            .then_some("is a folder that holds rows, and folders within folders are not read; move its files up");
    }
    if is_named_other(path) || begins_as_rows(path) {
        return Some(
            "looks like rows in a form that is not read; write .jsonl, .json or .parquet, plain, .gz or .zst, or move it away",
        );
    }
    (is_named_data(path) && !path.is_file()).then_some("is no file, or a link that leads to none")
}

fn holds_rows(folder: &Path, depth: usize) -> bool {
    let mut entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let is_rows = |path: &Path| match path.is_dir() {
        true => depth > 0 && !is_ignored(&plain_name(path)) && holds_rows(path, depth - 1),
        false => is_named_data(path) || is_named_other(path) || begins_as_rows(path),
    };
    entries.any(|path| is_rows(&path))
}
