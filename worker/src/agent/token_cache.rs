//! Keeps the folder of tokenized rows from growing forever.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that may lie there before the oldest files go.
const LIMIT: u64 = 8 << 30;

/// Removes the oldest files of `folder` above the limit; what cannot be removed stays.
pub fn trim(folder: &Path) {
    for file in above(files(folder), LIMIT) {
        if let Err(e) = fs::remove_file(&file) {
            tracing::warn!("{}: {e}", file.display());
        }
    }
}

fn files(folder: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            e.metadata()
                .ok()
                .and_then(|m| Some((m.modified().ok()?, m.len(), e.path())))
        })
        .collect()
}

/// The oldest files, so many that the others stay within `limit` bytes.
fn above(mut files: Vec<(SystemTime, u64, PathBuf)>, limit: u64) -> Vec<PathBuf> {
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    let goes = files.into_iter().take_while(|(_, size, _)| {
        let goes = total > limit;
        total -= if goes { *size } else { 0 };
        goes
    });
    goes.map(|(.., path)| path).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_files_go_first_and_no_more_than_must() {
        let file = |age: u64, name: &str| {
            (
                SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age),
                4,
                name.into(),
            )
        };
        let files = vec![file(1, "new"), file(9, "oldest"), file(5, "old")];
        assert_eq!(above(files.clone(), 8), [PathBuf::from("oldest")]);
        assert_eq!(above(files.clone(), 12), Vec::<PathBuf>::new());
        assert_eq!(above(files, 3).len(), 3);
    }
}
