//! Artifacts to and from the coordinator, streamed and resumed.
//!
//! A worker's transfer resumes after every interruption for as long as its caller waits, who gives
//! up by dropping it. A person's goes on for as long as bytes come through (`patience.rs`).

use std::path::Path;
use std::time::Duration;

use qlora_proto::{DownloadRequest, StatArtifactRequest, UploadHeader, UploadRequest};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use self::content::{Content, Reader};
use self::patience::{Caller, Patience};
use crate::archive::Archive;
use crate::connection::Client;
use crate::retry::{Verdict, judge, passes_after};
use crate::transfer_error::{TransferError, io};

mod content;
mod patience;
#[cfg(test)]
mod tests;

pub use self::content::digest;

/// Times that bytes which are not those that were announced are sent again.
const MISMATCHES: usize = 20;
/// Wait while the other side's disk is full.
const FULL_WAIT: Duration = Duration::from_secs(15);

/// What one try came to.
enum TryError {
    /// The connection broke or the coordinator is in trouble: go on later.
    Again(Box<Status>),
    /// The coordinator's disk is full.
    Full(String),
    /// What came was not what was announced.
    Mismatch(String),
    Final(TransferError),
}

impl From<TransferError> for TryError {
    fn from(error: TransferError) -> Self {
        Self::Final(error)
    }
}

impl TryError {
    fn refused(status: &Status) -> Self {
        Self::Final(TransferError::Refused(status.message().to_owned()))
    }

    fn of(status: &Status, caller: Caller) -> Self {
        let again = || Self::Again(Box::new(status.clone()));
        match status.code() {
            tonic::Code::Aborted => Self::Mismatch(status.message().to_owned()),
            // What passes by itself is no disk.
            tonic::Code::ResourceExhausted if passes_after(status).is_some() => again(),
            tonic::Code::ResourceExhausted => Self::Full(status.message().to_owned()),
            // Damaged bytes in the store stay damaged until somebody sends them again.
            tonic::Code::DataLoss => Self::refused(status),
            _ => match judge(status) {
                Verdict::Again => again(),
                Verdict::Register if caller == Caller::Worker => again(),
                Verdict::Register | Verdict::Over | Verdict::Refused => Self::refused(status),
            },
        }
    }
}

/// Hears how many bytes of a transfer are through.
pub type Watch<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// For a caller who does not want to know.
pub fn unwatched(_: u64) {}

/// A file to upload.
pub struct Source<'a> {
    pub path: &'a Path,
    /// SHA-256 in hex and size, as [`digest`] gives them.
    pub digest: &'a str,
    pub size: u64,
    /// The attempt that uploads; none for a person.
    pub by: Option<By<'a>>,
}

/// An attempt, and the session of its worker: another one after the worker has registered again.
#[derive(Clone, Copy)]
pub struct By<'a> {
    pub token: u64,
    pub session: &'a (dyn Fn() -> u64 + Send + Sync),
}

fn caller(by: Option<By<'_>>) -> Caller {
    match by {
        Some(_) => Caller::Worker,
        None => Caller::Person,
    }
}

/// The token and the session that a request names; 0 for a person.
fn named(by: Option<By<'_>>) -> (u64, u64) {
    by.map_or((0, 0), |by| (by.token, (by.session)()))
}

/// Uploads `source`, going on after every break.
pub async fn upload(
    client: &Client,
    source: &Source<'_>,
    watch: Watch<'_>,
) -> Result<(), TransferError> {
    let Source {
        path,
        digest,
        size,
        by,
    } = *source;
    send(
        client,
        &Sent {
            content: Content::File(path),
            digest,
            size,
            by,
        },
        watch,
    )
    .await
}

/// Uploads the folder of `archive` as one artifact for the attempt `by`, going on after every
/// break.
///
/// # Errors
/// Also [`TransferError::Changed`], which names a file that was written since `archive` was made.
pub async fn upload_folder(
    client: &Client,
    archive: &Archive,
    by: Option<By<'_>>,
    watch: Watch<'_>,
) -> Result<(), TransferError> {
    let (digest, size) = (archive.digest(), archive.size());
    send(
        client,
        &Sent {
            content: Content::Folder(archive),
            digest,
            size,
            by,
        },
        watch,
    )
    .await
}

/// What is uploaded, whatever its bytes come from.
struct Sent<'a> {
    content: Content<'a>,
    digest: &'a str,
    size: u64,
    by: Option<By<'a>>,
}

impl Sent<'_> {
    fn caller(&self) -> Caller {
        caller(self.by)
    }
}

async fn send(client: &Client, source: &Sent<'_>, watch: Watch<'_>) -> Result<(), TransferError> {
    send_with(Patience::new(source.caller()), client, source, watch).await
}

async fn send_with(
    mut patience: Patience,
    client: &Client,
    source: &Sent<'_>,
    watch: Watch<'_>,
) -> Result<(), TransferError> {
    let mut mismatches = 0;
    let through = patience.through();
    let watch = |n| {
        through.tell(n);
        watch(n);
    };
    loop {
        match try_upload(client.clone(), source, &watch).await {
            Ok(()) => return Ok(()),
            Err(TryError::Final(e)) => return Err(e),
            // A person is told at once; a run goes on meanwhile, and room may be made.
            Err(TryError::Full(message)) if source.caller() == Caller::Person => {
                return Err(TransferError::Full(message));
            }
            Err(TryError::Full(message)) => {
                tracing::warn!("{message}; trying again");
                tokio::time::sleep(FULL_WAIT).await;
            }
            Err(TryError::Mismatch(message)) => {
                mismatches += 1;
                source.content.check(source.digest).await?;
                // As with a full disk, a run goes on trying.
                if source.caller() == Caller::Person && mismatches == MISMATCHES {
                    return Err(TransferError::Refused(message));
                }
                patience.wait().await;
            }
            Err(TryError::Again(status)) => patience.bear(status).await?,
        }
    }
}

async fn try_upload(
    mut client: Client,
    source: &Sent<'_>,
    watch: Watch<'_>,
) -> Result<(), TryError> {
    let Sent {
        content,
        digest,
        size,
        by,
    } = *source;
    let fault = |status: Status| TryError::of(&status, source.caller());
    let request = StatArtifactRequest {
        digest: digest.into(),
    };
    let stat = client.artifacts.stat_artifact(request).await;
    let stat = stat.map_err(fault)?.into_inner();
    if stat.complete {
        return Ok(());
    }
    let mut reader = Reader::open(content, stat.received).await?;
    let (sender, receiver) = mpsc::channel(4);
    let mut sent = stat.received;
    let (token, session) = named(by);
    let header = UploadHeader {
        digest: digest.into(),
        size,
        offset: stat.received,
        token,
        session,
    };
    let feed = async move {
        let mut header = Some(header);
        loop {
            let data = reader.next().await?;
            let n = data.len();
            if n == 0 && header.is_none() {
                return Ok::<(), TransferError>(());
            }
            // The receiver is gone when the coordinator answered early: its answer says why.
            if sender
                .send(UploadRequest {
                    header: header.take(),
                    data,
                })
                .await
                .is_err()
            {
                return Ok(());
            }
            sent += n as u64;
            watch(sent);
        }
    };
    let (fed, answer) = tokio::join!(feed, client.artifacts.upload(ReceiverStream::new(receiver)));
    fed?;
    answer.map(drop).map_err(fault)
}

/// Downloads the artifact `digest` to `path` for the attempt `by`, or for a person; goes on after
/// every break, and checks the artifact before it gets its name.
pub async fn download(
    client: &Client,
    digest: &str,
    path: &Path,
    by: Option<By<'_>>,
    watch: Watch<'_>,
) -> Result<(), TransferError> {
    download_with(Patience::new(caller(by)), client, digest, path, by, watch).await
}

async fn download_with(
    mut patience: Patience,
    client: &Client,
    digest: &str,
    path: &Path,
    by: Option<By<'_>>,
    watch: Watch<'_>,
) -> Result<(), TransferError> {
    let partial = path.with_extension("partial");
    let mut damaged = false;
    let through = patience.through();
    let watch = |n| {
        through.tell(n);
        watch(n);
    };
    loop {
        match try_download(client.clone(), digest, &partial, by, &watch).await {
            Ok(()) if self::digest(&partial)?.0 == digest => {
                return qlora_files::place(&partial, path).map_err(io(path));
            }
            Ok(()) if damaged => return Err(TransferError::Damaged { path: path.into() }),
            Ok(()) => {
                damaged = true;
                tokio::fs::remove_file(&partial)
                    .await
                    .map_err(io(&partial))?;
            }
            Err(TryError::Final(e)) => return Err(e),
            Err(TryError::Full(message)) => return Err(TransferError::Full(message)),
            Err(TryError::Again(status)) => patience.bear(status).await?,
            Err(TryError::Mismatch(_)) => patience.wait().await,
        }
    }
}

async fn try_download(
    mut client: Client,
    digest: &str,
    partial: &Path,
    by: Option<By<'_>>,
    watch: Watch<'_>,
) -> Result<(), TryError> {
    let fault = |status: Status| TryError::of(&status, caller(by));
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .append(true)
        .open(partial)
        .await
        .map_err(io(partial))?;
    let offset = file.metadata().await.map_err(io(partial))?.len();
    let (token, session) = named(by);
    let request = DownloadRequest {
        digest: digest.into(),
        offset,
        token,
        session,
    };
    let messages = client.artifacts.download(request).await;
    let mut messages = messages.map_err(fault)?.into_inner();
    let mut received = offset;
    while let Some(message) = messages.message().await.map_err(fault)? {
        file.write_all(&message.data).await.map_err(io(partial))?;
        received += message.data.len() as u64;
        watch(received);
    }
    file.flush().await.map_err(io(partial))?;
    file.sync_all().await.map_err(io(partial))?;
    Ok(())
}
