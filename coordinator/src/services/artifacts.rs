//! `qlora.v1.ArtifactService`.

use std::time::Duration;

use qlora_proto::artifact_service_server::ArtifactService;
use qlora_proto::*;
use qlora_store::{Digest256, Finished, JobStore, Upload};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming as Incoming};

use super::{Services, Streaming, streaming};
use crate::caller::Caller;
use crate::error::CallError;
use crate::{caller, convert};

/// A sender that is silent for this long is gone; what it has sent waits for the next one.
const SILENCE: Duration = Duration::from_secs(60);

fn digest(text: &str) -> Result<Digest256, CallError> {
    Ok(text.parse()?)
}

#[tonic::async_trait]
impl<S: JobStore> ArtifactService for Services<S> {
    type DownloadStream = Streaming<DownloadResponse>;

    async fn stat_artifact(
        &self,
        request: Request<StatArtifactRequest>,
    ) -> Result<Response<StatArtifactResponse>, Status> {
        let only_looks = caller::of(request.extensions()).is_some_and(Caller::only_looks);
        let digest = digest(&request.into_inner().digest)?;
        // Who may send nothing relies on nothing: a look keeps no artifact alive.
        let stat = if only_looks {
            self.artifacts.look(&digest).await
        } else {
            self.artifacts.stat(&digest).await
        }
        .map_err(CallError::from)?;
        let (size, received) = if stat.complete {
            (stat.size, 0)
        } else {
            (0, stat.size)
        };
        Ok(Response::new(StatArtifactResponse {
            complete: stat.complete,
            size,
            received,
            damaged: stat.damaged,
        }))
    }

    async fn upload(
        &self,
        request: Request<Incoming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let is_worker = caller::of(request.extensions()).is_some_and(Caller::is_worker);
        let mut messages = request.into_inner();
        let first = next(&mut messages)
            .await?
            .ok_or_else(|| Status::invalid_argument("the upload is empty"))?;
        let header = first
            .header
            .ok_or_else(|| Status::invalid_argument("the first message has no header"))?;
        if is_worker && header.token == 0 {
            return Err(Status::permission_denied(
                "a worker's token uploads for an attempt only; a person's files need a token of the role submitter",
            ));
        }
        self.may_upload(&header).await?;
        let digest = digest(&header.digest)?;
        let stat = self
            .artifacts
            .stat(&digest)
            .await
            .map_err(CallError::from)?;
        if !stat.complete {
            let finished = self
                .take(&digest, &header, first.data, &mut messages)
                .await?;
            // The attempt may have lost its job while the bytes came.
            match self.may_upload(&header).await {
                Ok(()) => finished.publish().await.map_err(CallError::from)?,
                Err(refused) => {
                    finished.discard().await;
                    return Err(refused.into());
                }
            }
        }
        Ok(Response::new(UploadResponse {
            digest: header.digest,
            size: header.size,
        }))
    }

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let is_worker = caller::of(request.extensions()).is_some_and(Caller::is_worker);
        let request = request.into_inner();
        if is_worker {
            self.may_download(&request).await?;
        }
        let mut reader = self
            .artifacts
            .read(&digest(&request.digest)?, request.offset)
            .await
            .map_err(CallError::from)?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut size = reader.size;
            loop {
                let answer = match reader.next(CHUNK_BYTES).await {
                    Ok(data) if data.is_empty() && size == 0 => return,
                    Ok(data) => Ok(DownloadResponse {
                        size: std::mem::take(&mut size),
                        data,
                    }),
                    Err(e) => Err(CallError::from(e).into()),
                };
                let failed = answer.is_err();
                if sender.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(streaming(receiver))
    }
}

/// The next message; none at the end.
async fn next(messages: &mut Incoming<UploadRequest>) -> Result<Option<UploadRequest>, Status> {
    let silent = |_| {
        Status::aborted(
            "nothing came for too long; what came is kept, ask where it stands and go on",
        )
    };
    tokio::time::timeout(SILENCE, messages.message())
        .await
        .map_err(silent)?
}

async fn receive(
    upload: &mut Upload,
    first: Vec<u8>,
    messages: &mut Incoming<UploadRequest>,
) -> Result<(), Status> {
    let mut data = first;
    loop {
        upload.write(data).await.map_err(CallError::from)?;
        match next(messages).await? {
            Some(message) => data = message.data,
            None => return Ok(()),
        }
    }
}

impl<S: JobStore> Services<S> {
    /// Takes all bytes of an upload and checks them.
    async fn take(
        &self,
        digest: &Digest256,
        header: &UploadHeader,
        first: Vec<u8>,
        messages: &mut Incoming<UploadRequest>,
    ) -> Result<Finished, Status> {
        let mut upload = self
            .artifacts
            .upload(digest, header.size, header.offset)
            .await
            .map_err(CallError::from)?;
        receive(&mut upload, first, messages).await?;
        Ok(upload.finish().await.map_err(CallError::from)?)
    }

    /// A worker downloads for its own attempt, and only what the job of that attempt has.
    async fn may_download(&self, request: &DownloadRequest) -> Result<(), Status> {
        let denied = |why| {
            Status::permission_denied(format!(
                "{why}; other artifacts need a token of the role viewer"
            ))
        };
        let Some(token) = convert::token_in(request.token) else {
            return Err(denied("a worker's token downloads for an attempt only"));
        };
        let session = convert::session_in(request.session);
        let id = self.job_of(session, token).await?;
        let digest = request.digest.clone();
        let is_of_it = self
            .driver
            .read(move |engine| {
                let job = engine.job(id);
                job.is_some_and(|job| job.digests().any(|one| one == digest))
            })
            .await?;
        if is_of_it {
            return Ok(());
        }
        Err(denied("the job of this attempt does not have the artifact"))
    }

    /// An attempt uploads only while it is current; a person always may.
    async fn may_upload(&self, header: &UploadHeader) -> Result<(), CallError> {
        let Some(token) = convert::token_in(header.token) else {
            return Ok(());
        };
        self.job_of(convert::session_in(header.session), token)
            .await
            .map(drop)
    }
}
