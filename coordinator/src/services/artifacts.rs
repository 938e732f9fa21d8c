//! `qlora.v1.ArtifactService`.

use qlora_engine::{Refusal, Token};
use qlora_proto::artifact_service_server::ArtifactService;
use qlora_proto::*;
use qlora_store::{Digest256, JobStore, Upload};
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status, Streaming as Incoming};

use super::{Services, Streaming, streaming};
use crate::convert;
use crate::error::CallError;

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
        let stat = self.artifacts.stat(&digest(&request.into_inner().digest)?).await;
        let received = if stat.complete { 0 } else { stat.size };
        let size = if stat.complete { stat.size } else { 0 };
        Ok(Response::new(StatArtifactResponse { complete: stat.complete, size, received }))
    }

    async fn upload(&self, request: Request<Incoming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("the upload is empty"))?;
        let header = first.header.ok_or_else(|| Status::invalid_argument("the first message has no header"))?;
        self.may_upload(header.token).await?;
        let digest = digest(&header.digest)?;
        if self.artifacts.stat(&digest).await.complete {
            return Ok(Response::new(UploadResponse { digest: header.digest, size: header.size }));
        }
        let taken = self.take(&digest, &header, first.data, &mut messages).await;
        if taken.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
            self.artifacts.discard(&digest).await;
        }
        taken?;
        Ok(Response::new(UploadResponse { digest: header.digest, size: header.size }))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let mut reader =
            self.artifacts.read(&digest(&request.digest)?, request.offset).await.map_err(CallError::from)?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut size = reader.size;
            loop {
                let answer = match reader.next(CHUNK_BYTES).await {
                    Ok(data) if data.is_empty() && size == 0 => return,
                    Ok(data) => Ok(DownloadResponse { size: std::mem::take(&mut size), data }),
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

async fn receive(upload: &mut Upload, first: Vec<u8>, messages: &mut Incoming<UploadRequest>) -> Result<(), Status> {
    let mut data = first;
    loop {
        upload.write(&data).await.map_err(CallError::from)?;
        match messages.message().await? {
            Some(message) => data = message.data,
            None => return Ok(()),
        }
    }
}

impl<S: JobStore> Services<S> {
    async fn take(
        &self,
        digest: &Digest256,
        header: &UploadHeader,
        first: Vec<u8>,
        messages: &mut Incoming<UploadRequest>,
    ) -> Result<(), Status> {
        let mut upload = self.artifacts.upload(digest, header.size, header.offset).await.map_err(CallError::from)?;
        receive(&mut upload, first, messages).await?;
        if !upload.is_full() {
            return Err(Status::aborted("the upload broke off; what came is kept, go on where it stands"));
        }
        Ok(upload.finish().await.map_err(CallError::from)?)
    }

    /// An attempt uploads only while it is current; a person always may.
    async fn may_upload(&self, token: u64) -> Result<(), CallError> {
        let Some(token) = convert::token_in(token) else { return Ok(()) };
        let current = self.driver.read(move |engine| engine.job_of(token)).await?;
        current.map(drop).ok_or(CallError::Refused(Refusal::StaleToken(Token(token.0))))
    }
}
