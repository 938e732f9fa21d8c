use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_client::transfer::{self, Source};
use qlora_config::{Layers, Place, ResolvedConfig};
use qlora_data::rows;
use qlora_proto::{GetConfigRequest, Job, JobFile, JobKind, SubmitRequest};
use tempfile::{NamedTempFile, TempPath};

use super::checked::checked;
use super::watch::watch;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print, print_json};

/// A configuration and what is laid over it.
#[derive(Debug, Args)]
pub struct ConfigSource {
    /// Configuration file; or NAME or NAME@REVISION of one on the coordinator.
    pub config: String,
    /// Set one key, such as lora.r=8; repeatable, overrides the file. Paths start from the current folder.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// A configuration with what is needed to find its files.
pub struct Resolved {
    pub config: ResolvedConfig,
    /// What was written where.
    pub layers: Layers,
    /// Where relative paths in the file start.
    pub folder: PathBuf,
}

impl Resolved {
    /// The files of rows by their roles, every row looked at.
    fn data(&self) -> Result<Vec<DataFile>, CtlError> {
        self.inputs()?.iter().map(|(role, path)| DataFile::open(role, path)).collect()
    }

    /// Where the files of rows are, by their roles; each is there. A path in the file starts from the file's folder; one that a flag or a variable
    /// gives starts, as every path on a command line, from the current folder.
    pub fn inputs(&self) -> Result<Vec<(&'static str, PathBuf)>, CtlError> {
        let data = &self.config.config().data;
        let given = [("train", "data.train", &data.train), ("eval", "data.eval", &data.eval)];
        let present = given.into_iter().filter_map(|(role, key, path)| Some((role, key, path.as_ref()?)));
        present
            .map(|(role, key, path)| {
                let place = self.layers.place_of(key);
                let path = match &place {
                    Some(Place::Named(_)) => PathBuf::from(path),
                    _ => self.folder.join(path),
                };
                if path.exists() {
                    return Ok((role, path));
                }
                Err(CtlError::NoInput { key, place: place.map(|p| p.to_string()).unwrap_or_default(), path })
            })
            .collect()
    }
}

impl ConfigSource {
    /// Reads and checks a file.
    fn resolve_file(&self) -> Result<Resolved, CtlError> {
        let path = Path::new(&self.config);
        let text = read_config(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        self.layers(self.config.clone(), text, folder)
    }

    /// As [`Self::resolve_file`]; what is no file is looked up on the coordinator.
    pub async fn resolve(&self, context: &Context) -> Result<Resolved, CtlError> {
        let looks_like_name = !self.config.contains(['/', '\\'])
            && ![".yaml", ".yml", ".json"].iter().any(|end| self.config.ends_with(end));
        if Path::new(&self.config).exists() || !looks_like_name {
            return self.resolve_file();
        }
        let request = named(&self.config)?;
        let found = context.client()?.configs.get_config(request).await.map_err(|status| match status.code() {
            tonic::Code::NotFound => CtlError::Usage {
                message: format!(
                    "there is no file `{}`, and no configuration of that name: {}",
                    self.config,
                    status.message()
                ),
                help: "qlora-ctl config list shows the names".into(),
            },
            _ => context.fault()(status),
        })?;
        let found = found.into_inner();
        self.layers(format!("{}@{}", found.name, found.revision), found.yaml, PathBuf::new())
    }

    fn layers(&self, name: String, text: String, folder: PathBuf) -> Result<Resolved, CtlError> {
        let env = std::env::vars().filter(|(name, _)| name.starts_with("QLORA__")).collect();
        let layers = Layers { file: Some((name, text)), env, set: self.set.clone() };
        Ok(Resolved { config: checked(&layers)?, layers, folder })
    }
}

/// The text of a configuration file.
pub fn read_config(path: &Path) -> Result<String, CtlError> {
    let bytes = std::fs::read(path).map_err(CtlError::io(path))?;
    let line = |end: usize| bytes[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
    std::str::from_utf8(&bytes)
        .map(str::to_owned)
        .map_err(|e| CtlError::NotText { path: path.into(), line: line(e.valid_up_to()) })
}

/// Submit a configuration as a job.
///
/// Every row is looked at before anything is sent. The answer comes when the job is durable.
#[derive(Debug, Args)]
pub struct Submit {
    #[command(flatten)]
    source: ConfigSource,
    /// Follow the job until it ends.
    #[arg(long, short)]
    watch: bool,
    /// The same key gives the same job, however often it is submitted.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Submit {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let resolved = self.source.resolve(context).await?;
        context.warn(resolved.config.warnings());
        let job = submit(context, &resolved, self.idempotency_key.clone()).await?;
        if self.watch {
            context.say(format!("{}   submitted", job.id));
            return watch(context, job.id, None).await;
        }
        if context.global.json {
            print_json(&json::job(&job, None))?;
        } else {
            print(job.id)?;
            context.say(format!("follow it with: qlora-ctl watch {}", job.id));
        }
        Ok(Exit::Done.into())
    }
}

/// Uploads the data and submits.
#[tracing::instrument(name = "submit", skip_all)]
pub async fn submit(context: &Context, resolved: &Resolved, key: Option<String>) -> Result<Job, CtlError> {
    let config = resolved.config.config();
    let files = resolved.data()?;
    for data in &files {
        data.upload(context).await?;
    }
    let request = SubmitRequest {
        kind: JobKind::Train.into(),
        name: config.name.clone().unwrap_or_default(),
        config_json: resolved.config.json().to_owned(),
        files: files.iter().map(|data| data.file.clone()).collect(),
        idempotency_key: key.unwrap_or_default(),
    };
    send(context, request).await
}

/// Submits a job whose files are with the coordinator.
pub async fn send(context: &Context, request: SubmitRequest) -> Result<Job, CtlError> {
    let answer = context.client()?.jobs.submit(request).await.map_err(context.fault())?.into_inner();
    let job = answer.job.ok_or_else(|| CtlError::Refused {
        message: "the coordinator gave no job".into(),
        help: "",
        exit: Exit::Refused,
    })?;
    if !answer.created {
        let state = job.state().word();
        context.say(format!(
            "job {} was already submitted with this key (it is {state}); nothing new was started",
            job.id
        ));
    }
    Ok(job)
}

/// A file of rows that is ready to be sent.
pub struct DataFile {
    pub file: JobFile,
    path: PathBuf,
    /// Holds the rows of a folder until they are sent.
    _joined: Option<TempPath>,
}

impl DataFile {
    /// Looks at every row before anything is sent; the files of a folder become one.
    pub fn open(role: &str, path: &Path) -> Result<Self, CtlError> {
        check(path)?;
        let joined = if path.is_dir() { Some(join(path)?) } else { None };
        let source = joined.as_deref().unwrap_or(path).to_owned();
        let (digest, size) = transfer::digest(&source)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = JobFile { role: role.into(), name, digest, size };
        Ok(Self { file, path: source, _joined: joined })
    }

    /// Brings the file to the coordinator; what is there already is not sent again.
    pub async fn upload(&self, context: &Context) -> Result<(), CtlError> {
        upload(context, &self.file, &self.path).await
    }
}

/// Writes the rows of all files of a folder into one.
fn join(folder: &Path) -> Result<TempPath, CtlError> {
    let name = folder.display().to_string();
    let mut out = BufWriter::new(NamedTempFile::new().map_err(CtlError::io(std::env::temp_dir()))?);
    for row in rows::open(folder, &name).map_err(|e| unreadable(&e))? {
        let value = row.map_err(|e| unreadable(&e))?.value.map_err(|e| unreadable(&e))?;
        writeln!(out, "{value}").map_err(CtlError::io(out.get_ref().path()))?;
    }
    let file = out.into_inner().map_err(|e| CtlError::io(std::env::temp_dir())(e.into_error()))?;
    Ok(file.into_temp_path())
}

fn unreadable(fault: &dyn std::error::Error) -> CtlError {
    CtlError::Data { message: fault.to_string(), help: "look at the file".into() }
}

fn check(path: &Path) -> Result<(), CtlError> {
    let name = path.display().to_string();
    let fault = |e: qlora_data::DatasetError| CtlError::Data {
        message: e.to_string(),
        help: format!("qlora-ctl data check {name} lists every fault"),
    };
    // What is not there at all is said in the words of the other commands.
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    let mut rows = 0usize;
    for row in qlora_data::examples(path, &name).map_err(fault)? {
        row.map_err(fault)?;
        rows += 1;
    }
    if rows == 0 {
        return Err(CtlError::Data {
            message: format!("{name} holds no rows"),
            help: "a row is one line: {\"messages\": [...]}".into(),
        });
    }
    Ok(())
}

async fn upload(context: &Context, file: &JobFile, path: &Path) -> Result<(), CtlError> {
    // A call that fails at once where the coordinator is away: transfers wait for it forever.
    let mut client = context.client()?;
    let request = qlora_proto::StatArtifactRequest { digest: file.digest.clone() };
    client.artifacts.stat_artifact(request).await.map_err(context.fault())?;
    let bar = if context.draws() { ProgressBar::new(file.size) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(console::line(&file.name).into_owned());
    let source = Source { path, digest: &file.digest, size: file.size, by: None };
    let moving = bar.clone();
    let result = transfer::upload(&client, &source, &move |n| moving.set_position(n)).await;
    bar.finish_and_clear();
    Ok(result?)
}

/// What `NAME` or `NAME@REVISION` asks for.
pub(super) fn named(text: &str) -> Result<GetConfigRequest, CtlError> {
    let (name, revision) = text.split_once('@').unwrap_or((text, "0"));
    let revision = revision.parse().map_err(|_| CtlError::Usage {
        message: format!("`{revision}` is no revision"),
        help: "write NAME@NUMBER".into(),
    })?;
    Ok(GetConfigRequest { name: name.into(), revision })
}
