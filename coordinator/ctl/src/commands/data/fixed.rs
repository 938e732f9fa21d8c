//! What `data check --fix` writes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use qlora_data::audit::Audited;
use qlora_files::Partial;

use crate::error::CtlError;

/// Endings of files in other forms than JSON lines. Under such a name nobody could read the rows, a
/// folder of data with it neither.
const OTHER_FORMS: [&str; 16] = [
    ".parquet", ".gz", ".zst", ".zstd", ".csv", ".tsv", ".arrow", ".feather", ".avro", ".orc",
    ".bz2", ".xz", ".lz4", ".br", ".zip", ".tar",
];

/// Rows in one form, written under another name until all are there.
pub struct Fixed {
    path: PathBuf,
    partial: Partial,
    out: BufWriter<File>,
    rows: usize,
    left_out: usize,
}

/// What was written in the end.
pub struct Written {
    pub path: PathBuf,
    pub rows: usize,
    pub left_out: usize,
}

impl Fixed {
    /// Begins the file that becomes `path`, which must be none of `inputs`.
    pub fn create(path: &Path, inputs: &[&Path]) -> Result<Self, CtlError> {
        refuse_form(path)?;
        for input in inputs {
            refuse_input(path, input)?;
        }
        let partial = Partial::file(path).map_err(CtlError::io(path))?;
        let file = File::options().write(true).open(partial.path());
        let file = file.map_err(CtlError::io(path))?;
        Ok(Self {
            path: path.into(),
            partial,
            out: BufWriter::new(file),
            rows: 0,
            left_out: 0,
        })
    }

    /// Writes a row about which nothing was found.
    pub fn take(&mut self, audited: &Audited) -> Result<(), CtlError> {
        match &audited.fixed {
            Some(row) if audited.findings.is_empty() => {
                self.rows += 1;
                writeln!(self.out, "{row}").map_err(CtlError::io(&self.path))
            }
            _ => {
                self.left_out += 1;
                Ok(())
            }
        }
    }

    pub fn finish(self) -> Result<Written, CtlError> {
        let Self {
            path,
            partial,
            mut out,
            rows,
            left_out,
        } = self;
        out.flush().map_err(CtlError::io(&path))?;
        partial.replace().map_err(CtlError::io(&path))?;
        Ok(Written {
            path,
            rows,
            left_out,
        })
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Refuses a name that promises another form.
fn refuse_form(path: &Path) -> Result<(), CtlError> {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().to_lowercase();
    match OTHER_FORMS.iter().find(|ending| name.ends_with(*ending)) {
        None => Ok(()),
        Some(ending) => Err(CtlError::Usage {
            message: format!(
                "--fix {} is written as plain JSON lines, and not as {ending}",
                path.display()
            ),
            help: "name a .jsonl file; nothing was written".into(),
        }),
    }
}

/// Whatever its name: by a link, by another spelling, or as a part of the folder that is read.
fn refuse_input(path: &Path, input: &Path) -> Result<(), CtlError> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let is_same = identity(path).is_some_and(|own| identity(input) == Some(own));
    let is_inside = match (folder_of(path).canonicalize(), input.canonicalize()) {
        (Ok(parent), Ok(input)) => input.is_dir() && parent.starts_with(input),
        _ => false,
    };
    if is_same || is_inside {
        let what = if is_inside {
            "lies in the folder that is read"
        } else {
            "is the file that is read"
        };
        return Err(CtlError::Usage {
            message: format!("--fix {} {what}", path.display()),
            help: "name another file; nothing was written".into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn no_spelling_of_an_input_is_written_to() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("rows/inner")).expect("folders");
        fs::write(at("a.jsonl"), "{}").expect("a file");
        fs::hard_link(at("a.jsonl"), at("hard")).expect("a link");
        std::os::unix::fs::symlink(at("a.jsonl"), at("soft")).expect("a link");
        for name in ["a.jsonl", "hard", "soft", "rows/../a.jsonl"] {
            assert!(
                Fixed::create(&at(name), &[&at("a.jsonl")]).is_err(),
                "{name}"
            );
        }
        for name in ["rows/new.jsonl", "rows/inner/new.jsonl"] {
            assert!(Fixed::create(&at(name), &[&at("rows")]).is_err(), "{name}");
        }
        for name in ["out.parquet", "out.jsonl.gz", "OUT.JSONL.ZST", "out.csv"] {
            let refused = Fixed::create(&at(name), &[&at("a.jsonl")]);
            let said = refused.err().expect(name).to_string();
            assert!(said.contains("plain JSON lines"), "{said}");
        }
        for name in ["b.jsonl", "rows/new.jsonl"] {
            let fixed = Fixed::create(&at(name), &[&at("a.jsonl")]).expect(name);
            assert_eq!(fixed.finish().expect("a file").rows, 0);
            assert!(at(name).exists());
        }
        assert_eq!(fs::read_to_string(at("a.jsonl")).expect("the input"), "{}");
    }
}
