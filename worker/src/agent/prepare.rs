//! What an attempt needs before its child starts: rows, checkpoint or adapter, and the model.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qlora_config::{ModelConfig, ResolvedConfig};
use qlora_planner::unmet_quantization;
use qlora_proto::{FileRole, JobFile, JobKind, LogLevel, Progress};

use super::fault::Fault;
use super::outbox::Outbox;
use super::progress::{Entry, line};
use super::token_cache;
use super::work::Work;
use crate::child::{Spec, Task};
use crate::models::{self, Progress as FetchProgress};
use crate::process_group::Member;
use qlora_client::TransferError;
use qlora_client::transfer::{self, By, unwatched};
use qlora_trainer::checkpoint::BEST;

/// Bytes of the name of a file at the most.
const LONGEST_NAME: usize = 255;

impl Work {
    /// Brings everything here that the child needs, and writes down what it should do.
    pub(super) async fn prepare(&mut self) -> Result<PathBuf, Fault> {
        tokio::fs::create_dir_all(&self.folder)
            .await
            .map_err(Fault::io(&self.folder))?;
        let config = ResolvedConfig::from_json(&self.assignment.config_json)?;
        let task = match self.assignment.kind() {
            JobKind::Eval => self.scoring().await?,
            _ => self.training().await?,
        };
        let model = self.model(&config.config().model).await?;
        let spec = Spec {
            config_json: self.assignment.config_json.clone(),
            model,
            task,
            member: self.member(),
        };
        token_cache::trim(&self.tokens);
        let path = self.folder.join("spec.json");
        let text = serde_json::to_vec(&spec).unwrap_or_default();
        tokio::fs::write(&path, text)
            .await
            .map_err(Fault::io(&path))?;
        Ok(path)
    }

    /// Which process of a group it is, where it does not train alone.
    fn member(&self) -> Option<Member> {
        let (rank, world_size) = (self.assignment.rank as usize, self.assignment.size as usize);
        (world_size > 1).then_some(Member {
            rank,
            world_size,
            port: self.options.peers.port,
        })
    }

    async fn training(&self) -> Result<Task, Fault> {
        let output = self.folder.join("output");
        tokio::fs::create_dir_all(&output)
            .await
            .map_err(Fault::io(&output))?;
        let resume = match &self.assignment.checkpoint {
            Some(checkpoint) => {
                self.outbox.log(line(
                    LogLevel::Info,
                    format!("going on from the checkpoint of step {}", checkpoint.step),
                ));
                Some(self.fetch_folder("resume", &checkpoint.digest).await?)
            }
            None => None,
        };
        Ok(Task::Train {
            train: self.fetch_rows(FileRole::Train).await?.unwrap_or_default(),
            eval: self.fetch_rows(FileRole::Eval).await?,
            output,
            resume,
            tokens: Some(self.tokens.clone()),
        })
    }

    async fn scoring(&self) -> Result<Task, Fault> {
        let adapter = match self.input(FileRole::Adapter) {
            Some(file) => Some(adapter_in(
                self.fetch_folder("adapter", &file.digest).await?,
            )),
            None => None,
        };
        Ok(Task::Score {
            rows: self.fetch_rows(FileRole::Eval).await?.unwrap_or_default(),
            adapter,
        })
    }

    fn input(&self, role: FileRole) -> Option<&JobFile> {
        self.assignment.files.iter().find(|file| file.is(role))
    }

    /// The rows of `role`, brought here where the job has any: a file, or the files of a folder,
    /// under the names that messages are to have.
    async fn fetch_rows(&self, role: FileRole) -> Result<Option<PathBuf>, Fault> {
        let Some(file) = self.input(role) else {
            return Ok(None);
        };
        let fetched = self.folder.join(format!("{role}.rows"));
        self.fetch(&file.digest, &fetched).await?;
        let folder = self.folder.join(role.to_string());
        tokio::fs::create_dir_all(&folder)
            .await
            .map_err(Fault::io(&folder))?;
        let path = folder.join(plain_name(&file.name).unwrap_or(&format!("{role}.jsonl")));
        blocking((fetched, path.clone()), |(fetched, path)| {
            if qlora_client::is_archive(fetched).map_err(Fault::io(fetched))? {
                unpack(fetched, path)
            } else {
                std::fs::rename(fetched, path).map_err(Fault::io(path))
            }
        })
        .await?;
        Ok(Some(path))
    }

    /// Brings an artifact of the job here, in the name of the attempt.
    async fn fetch(&self, digest: &str, path: &Path) -> Result<(), Fault> {
        let current = self.session.clone();
        let session = move || current.get();
        let by = By {
            token: self.assignment.token,
            session: &session,
        };
        Ok(transfer::download(&self.client, digest, path, Some(by), &unwatched).await?)
    }

    /// An archive of the store, unpacked as `name`.
    async fn fetch_folder(&self, name: &str, digest: &str) -> Result<PathBuf, Fault> {
        let archive = self.folder.join(format!("{name}.tar"));
        self.fetch(digest, &archive).await?;
        let folder = self.folder.join(name);
        blocking((archive, folder.clone()), |(archive, folder)| {
            unpack(archive, folder)
        })
        .await?;
        Ok(folder)
    }

    /// The model's path; fetched here when it is missing.
    async fn model(&mut self, wanted: &ModelConfig) -> Result<PathBuf, Fault> {
        let name = wanted.base.clone().unwrap_or_default();
        self.options.allowed.check(&name)?;
        // What the files cannot give is refused before gigabytes of them are fetched.
        let format = models::format_by_name(&name);
        if let Some(misfit) = format.and_then(|format| unmet_quantization(format, wanted)) {
            return Err(Fault::Misfit(misfit));
        }
        let told = Told {
            outbox: self.outbox.clone(),
            model: name.clone(),
        };
        let fetch = tokio::task::spawn_blocking(move || models::resolve(&name, &told));
        match fetch.await {
            Ok(path) => Ok(path?),
            Err(e) => Err(Fault::Task(e.to_string())),
        }
    }
}

/// Does `work` with two paths where it may wait for the disk: gigabytes of rows take minutes, and
/// the session has a lease to renew meanwhile.
async fn blocking(
    paths: (PathBuf, PathBuf),
    work: impl FnOnce((&Path, &Path)) -> Result<(), Fault> + Send + 'static,
) -> Result<(), Fault> {
    let work = tokio::task::spawn_blocking(move || work((&paths.0, &paths.1)));
    work.await.map_err(|e| Fault::Task(e.to_string()))?
}

/// Unpacks `archive` as `folder`, and removes it.
fn unpack(archive: &Path, folder: &Path) -> Result<(), Fault> {
    qlora_client::unpack(archive, folder).map_err(|fault| match fault {
        TransferError::Io { ref source, .. } if source.kind() == ErrorKind::StorageFull => {
            fault.into()
        }
        other => {
            tracing::warn!("{} cannot be unpacked: {other}", archive.display());
            let name = folder.file_name().unwrap_or_default();
            Fault::Archive {
                name: name.to_string_lossy().into_owned(),
            }
        }
    })?;
    std::fs::remove_file(archive).map_err(Fault::io(archive))
}

/// The adapter of an artifact: of a checkpoint, the best one where it keeps that.
fn adapter_in(folder: PathBuf) -> PathBuf {
    let best = folder.join(BEST);
    if best.is_dir() { best } else { folder }
}

/// `name` where it is that of a file and leads nowhere else; it comes from whoever has submitted
/// the job.
fn plain_name(name: &str) -> Option<&str> {
    let is_plain = Path::new(name).file_name() == Some(OsStr::new(name));
    Some(name).filter(|name| is_plain && name.len() <= LONGEST_NAME && !name.contains('\0'))
}

/// Tells of a download through the job's phase and its log.
struct Told {
    outbox: Arc<Outbox>,
    model: String,
}

impl Told {
    fn tell(&self, text: String) {
        let entry = Entry {
            log: Some(line(LogLevel::Info, text)),
            ..Entry::default()
        };
        let progress = Progress {
            phase: format!("fetching {}", self.model),
            ..Progress::default()
        };
        self.outbox.add(entry, &progress);
    }
}

impl FetchProgress for Told {
    fn start(&self, what: &str, bytes: u64) {
        self.tell(format!("fetching {what}, {:.0} MB", bytes as f64 / 1e6));
    }

    fn at(&self, _: u64) {}

    fn note(&self, text: &str) {
        self.tell(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_name_of_the_persons_file_unless_it_leads_elsewhere() {
        for name in ["b.jsonl", "cornd", ".rows", "größe.jsonl"] {
            assert_eq!(plain_name(name), Some(name));
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a/", "a\0b", &long] {
            assert_eq!(plain_name(name), None, "{name}");
        }
    }

    /// On the one thread of this runtime nobody else would come to send.
    #[tokio::test]
    async fn what_waits_for_the_disk_keeps_no_other_task_waiting() {
        let (sender, disk) = std::sync::mpsc::channel();
        let waiting = blocking(Default::default(), move |_| {
            disk.recv()
                .map_err(|e| Fault::io(Path::new("disk"))(std::io::Error::other(e)))
        });
        let answering = async move { sender.send(()).expect("who waits") };
        let (waited, ()) = tokio::join!(waiting, answering);
        waited.expect("what the disk gave");
    }

    #[test]
    fn the_adapter_of_a_checkpoint_is_the_best_one_that_it_keeps() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(adapter_in(home.path().to_owned()), home.path());
        std::fs::create_dir(home.path().join(BEST)).expect("a folder");
        assert_eq!(adapter_in(home.path().to_owned()), home.path().join(BEST));
    }
}
