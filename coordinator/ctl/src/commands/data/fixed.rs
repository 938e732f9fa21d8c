//! Rows in one form, written under another name until all are there.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::error::CtlError;

/// The file that `--fix` writes; it is there when all rows are, and nothing is left of it where they are not.
pub(super) struct Fixed {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    rows: usize,
    finished: bool,
}

impl Fixed {
    /// # Errors
    /// `path` is one of the files that are read.
    pub fn create(path: &Path, read: &[&Path]) -> Result<Self, CtlError> {
        let same = |other: &&&Path| match (path.canonicalize(), other.canonicalize()) {
            (Ok(path), Ok(other)) => path == other || path.parent() == Some(&other),
            _ => false,
        };
        if let Some(other) = read.iter().find(same) {
            return Err(CtlError::Usage {
                message: format!("--fix {} would write over {}, which is read", path.display(), other.display()),
                help: "name another file".into(),
            });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(CtlError::io(&partial))?;
        Ok(Self { path: path.into(), partial, out: BufWriter::new(file), rows: 0, finished: false })
    }

    pub fn write(&mut self, row: &serde_json::Value) -> Result<(), CtlError> {
        self.rows += 1;
        writeln!(self.out, "{row}").map_err(CtlError::io(&self.partial))
    }

    pub fn finish(mut self, context: &Context) -> Result<(), CtlError> {
        self.out.flush().map_err(CtlError::io(&self.partial))?;
        std::fs::rename(&self.partial, &self.path).map_err(CtlError::io(&self.path))?;
        self.finished = true;
        context.say(format!("{} rows written to {}", self.rows, self.path.display()));
        Ok(())
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is told; that this file stays too is not worth another.
            drop(std::fs::remove_file(&self.partial));
        }
    }
}
