//! Files of rows on their way to the coordinator: each row is checked, then the file is sent.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use qlora_client::transfer::{self, Source};
use qlora_client::{Archive, MOST_ENTRIES, TransferError, console};
use qlora_codes::Code;
use qlora_config::{Diagnostic, Place, Warning};
use qlora_data::rows::{self, Row};
use qlora_data::{Inspected, inspect, note_unread};
use qlora_proto::words::count;
use qlora_proto::{FileRole, JobFile};
use rayon::prelude::*;
use tempfile::{NamedTempFile, TempPath};

use crate::context::Context;
use crate::error::{CtlError, RowFault};

/// Rows that are looked at together, on all cores.
const CHUNK: usize = 1024;
/// Findings that a refusal names.
const SHOWN: usize = 20;
/// Where nothing can be drawn, a line now and then.
const SILENCE: Duration = Duration::from_secs(10);

/// A file of rows that is ready to be sent.
pub struct DataFile {
    pub file: JobFile,
    content: Content,
}

/// What is sent.
enum Content {
    File(PathBuf),
    /// The files of a folder under their own names, which messages of the job name.
    Folder(Archive),
    /// The rows of more files than an archive may have.
    Joined(TempPath),
}

impl Content {
    fn of(path: &Path) -> Result<Self, CtlError> {
        if !path.is_dir() {
            return Ok(Self::File(path.to_owned()));
        }
        let files = rows::files(path).map_err(|e| CtlError::unreadable(&e))?;
        if files.len() > MOST_ENTRIES {
            return Ok(Self::Joined(join(path)?));
        }
        Ok(Self::Folder(Archive::of_files(path, &files)?))
    }

    /// SHA-256 in hex, and bytes.
    fn digest(&self) -> Result<(String, u64), TransferError> {
        match self {
            Self::File(path) => transfer::digest(path),
            Self::Folder(archive) => Ok((archive.digest().to_owned(), archive.size())),
            Self::Joined(path) => transfer::digest(path),
        }
    }
}

impl DataFile {
    /// Looks at every row before anything is sent; the files of a folder become one artifact.
    pub fn open(context: &Context, role: FileRole, path: &Path) -> Result<Self, CtlError> {
        look(context, path)?;
        let content = Content::of(path)?;
        let (digest, size) = content.digest()?;
        let file = JobFile {
            role: role.into(),
            name: name_of(path),
            digest,
            size,
        };
        Ok(Self { file, content })
    }

    /// Brings the file to the coordinator; what is there already is not sent again.
    pub async fn upload(&self, context: &Context) -> Result<(), CtlError> {
        // A call that fails at once where the coordinator is away: transfers wait for it a while.
        let mut client = context.client().await?;
        let JobFile {
            name, digest, size, ..
        } = &self.file;
        let request = qlora_proto::StatArtifactRequest {
            digest: digest.clone(),
        };
        client
            .artifacts
            .stat_artifact(request)
            .await
            .map_err(context.fault())?;
        let bar = context.bar(name, *size);
        let moving = bar.clone();
        let watch = move |n| moving.set_position(n);
        let path: &Path = match &self.content {
            Content::Folder(archive) => {
                let result = transfer::upload_folder(&client, archive, None, &watch).await;
                bar.finish_and_clear();
                return result.map_err(context.transfer_fault());
            }
            Content::File(path) => path,
            Content::Joined(path) => path,
        };
        let source = Source {
            path,
            digest,
            size: *size,
            by: None,
        };
        let result = transfer::upload(&client, &source, &watch).await;
        bar.finish_and_clear();
        result.map_err(context.transfer_fault())
    }
}

/// The name of a file or folder, also where the path to it ends with dots.
fn name_of(path: &Path) -> String {
    match path.file_name() {
        Some(_) => rows::name_of(path),
        None => rows::name_of(&path.canonicalize().unwrap_or_default()),
    }
}

/// What was found in a file.
#[derive(Default)]
struct Found {
    rows: usize,
    faulty: usize,
    findings: usize,
    /// The first of the findings.
    shown: Vec<RowFault>,
    unread: BTreeMap<String, usize>,
}

impl Found {
    fn take(&mut self, place: &rows::Place, row: Inspected) {
        self.rows += 1;
        self.faulty += usize::from(!row.findings.is_empty());
        self.findings += row.findings.len();
        let room = SHOWN.saturating_sub(self.shown.len());
        let fault = |text| RowFault {
            place: place.to_string(),
            text,
        };
        self.shown
            .extend(row.findings.into_iter().take(room).map(fault));
        for key in row.unread {
            note_unread(&mut self.unread, key);
        }
    }
}

/// Holds every row of `path` against what `data check` holds it against; tells of keys that nothing
/// reads.
fn look(context: &Context, path: &Path) -> Result<(), CtlError> {
    let name = path.display().to_string();
    // What is not there at all is said in the words of the other commands.
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    let progress = Counter::new(context, &name);
    let mut found = Found::default();
    let mut rows = rows::open(path, &name).map_err(|e| CtlError::unreadable(&e))?;
    loop {
        let chunk: Vec<Row> = rows
            .by_ref()
            .take(CHUNK)
            .collect::<Result<_, _>>()
            .map_err(|e| CtlError::unreadable(&e))?;
        if chunk.is_empty() {
            break;
        }
        let looked: Vec<_> = chunk
            .into_par_iter()
            .map(|row| (row.place, inspect(row.value)))
            .collect();
        looked
            .into_iter()
            .for_each(|(place, row)| found.take(&place, row));
        progress.at(found.rows);
    }
    progress.end();
    tell_unread(context, &name, &found);
    match found {
        Found { rows: 0, .. } => Err(CtlError::Data {
            message: format!("{name} holds no rows"),
            help: "a row is one line: {\"messages\": [...]}".into(),
        }),
        Found { faulty: 0, .. } => Ok(()),
        Found {
            rows,
            faulty,
            findings,
            shown,
            ..
        } => Err(CtlError::Rows {
            name,
            rows,
            faulty,
            findings,
            shown,
        }),
    }
}

fn tell_unread(context: &Context, name: &str, found: &Found) {
    if found.unread.is_empty() {
        return;
    }
    let keys: Vec<String> = found
        .unread
        .iter()
        .map(|(key, n)| format!("`{key}` in {}", count(*n as u64, "row")))
        .collect();
    context.warn(&[Warning(Diagnostic {
        code: Code::UnreadKey,
        message: format!("keys that are not read: {}", keys.join(", ")),
        place: Some(Place::Named(name.to_owned())),
        help: Some("docs/reference/data.md lists the keys that are; remove the others where they mean nothing".into()),
    })]);
}

/// How many rows were looked at: a counter on a terminal, elsewhere a line where it takes long.
struct Counter<'a> {
    context: &'a Context,
    name: &'a str,
    bar: ProgressBar,
    told: std::cell::Cell<Instant>,
}

impl<'a> Counter<'a> {
    fn new(context: &'a Context, name: &'a str) -> Self {
        let bar = if context.draws() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            context,
            name,
            bar,
            told: Instant::now().into(),
        }
    }

    fn at(&self, rows: usize) {
        let text = format!("{}: {} checked", self.name, count(rows as u64, "row"));
        if !self.bar.is_hidden() {
            self.bar.set_message(console::line(&text).into_owned());
        } else if self.told.get().elapsed() > SILENCE {
            self.told.set(Instant::now());
            self.context.say(text);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes the rows of all files of a folder into one.
fn join(folder: &Path) -> Result<TempPath, CtlError> {
    let name = folder.display().to_string();
    let mut out = BufWriter::new(NamedTempFile::new().map_err(CtlError::io(std::env::temp_dir()))?);
    for row in rows::open(folder, &name).map_err(|e| CtlError::unreadable(&e))? {
        let value = row
            .map_err(|e| CtlError::unreadable(&e))?
            .value
            .map_err(|e| CtlError::unreadable(&e))?;
        writeln!(out, "{value}").map_err(CtlError::io(out.get_ref().path()))?;
    }
    let file = out
        .into_inner()
        .map_err(|e| CtlError::io(std::env::temp_dir())(e.into_error()))?;
    Ok(file.into_temp_path())
}
