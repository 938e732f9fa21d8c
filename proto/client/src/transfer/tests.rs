//! Transfers with a coordinator that refuses the token, or is in trouble, for a while.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qlora_proto::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use qlora_proto::{DownloadResponse, StatArtifactResponse, UploadResponse};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Streaming};

use super::*;

const BYTES: &[u8] = b"rows";

/// Holds `BYTES`; the calls of the numbers `failing`, counted from 0, end with `code`.
struct Store {
    failing: &'static [usize],
    code: Code,
    calls: Arc<AtomicUsize>,
}

impl Store {
    fn answer<T>(&self, answer: T) -> Result<Response<T>, Status> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.failing.contains(&call) {
            return Err(Status::new(self.code, "not now"));
        }
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl ArtifactService for Store {
    type DownloadStream = Pin<Box<dyn Stream<Item = Result<DownloadResponse, Status>> + Send>>;

    async fn stat_artifact(
        &self,
        _: Request<StatArtifactRequest>,
    ) -> Result<Response<StatArtifactResponse>, Status> {
        self.answer(StatArtifactResponse::default())
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let mut messages = request.into_inner();
        let mut received = Vec::new();
        while let Some(message) = messages.next().await {
            received.extend(message?.data);
        }
        assert_eq!(received, BYTES);
        self.answer(UploadResponse::default())
    }

    async fn download(
        &self,
        _: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let data = DownloadResponse {
            size: BYTES.len() as u64,
            data: BYTES.to_vec(),
        };
        self.answer(Box::pin(tokio_stream::once(Ok(data))) as Self::DownloadStream)
    }
}

/// A client of a [`Store`], and the number of calls that it got.
fn store(failing: &'static [usize], code: Code) -> (Client, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let store = Store {
        failing,
        code,
        calls: calls.clone(),
    };
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = incoming.local_addr().expect("an address").to_string();
    let server = Server::builder()
        .add_service(ArtifactServiceServer::new(store))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (Client::new(&address, None).expect("a client"), calls)
}

struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
    digest: String,
}

fn file() -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows");
    std::fs::write(&path, BYTES).expect("a file");
    let digest = digest(&path).expect("a digest").0;
    File {
        folder,
        path,
        digest,
    }
}

async fn sent(client: &Client, file: &File, by: Option<By<'_>>) -> Result<(), TransferError> {
    let source = Source {
        path: &file.path,
        digest: &file.digest,
        size: BYTES.len() as u64,
        by,
    };
    upload(client, &source, &unwatched).await
}

async fn got(client: &Client, file: &File, by: Option<By<'_>>) -> Result<Vec<u8>, TransferError> {
    let path = file.folder.path().join("got");
    download(client, &file.digest, &path, by, &unwatched).await?;
    Ok(std::fs::read(&path).expect("a file"))
}

#[tokio::test]
async fn a_worker_goes_on_whichever_call_of_a_transfer_does_not_know_its_session() {
    let file = file();
    let session = || 2;
    let by = Some(By {
        token: 1,
        session: &session,
    });
    // A stat comes before each try of an upload.
    for (failing, wanted) in [(&[0][..], 3), (&[1], 4), (&[0, 2], 5)] {
        let (client, calls) = store(failing, Code::Unauthenticated);
        sent(&client, &file, by).await.expect("an upload");
        assert_eq!(calls.load(Ordering::SeqCst), wanted, "{failing:?}");
    }
    for failing in [&[0][..], &[0, 1]] {
        let (client, calls) = store(failing, Code::Unauthenticated);
        let bytes = got(&client, &file, by).await;
        assert_eq!(bytes.expect("a download"), BYTES);
        assert_eq!(calls.load(Ordering::SeqCst), failing.len() + 1);
    }
}

#[tokio::test]
async fn a_person_is_told_at_once_of_a_token_that_is_refused() {
    let file = file();
    let (client, calls) = store(&[0, 1, 2], Code::Unauthenticated);
    let told = [
        sent(&client, &file, None).await,
        got(&client, &file, None).await.map(drop),
    ];
    for told in told {
        assert!(
            matches!(&told, Err(TransferError::Refused(text)) if text == "not now"),
            "{told:?}"
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_is_refused_for_good_ends_a_workers_transfer_too() {
    let file = file();
    let session = || 2;
    let by = Some(By {
        token: 1,
        session: &session,
    });
    for code in [
        Code::NotFound,
        Code::FailedPrecondition,
        Code::PermissionDenied,
        Code::DataLoss,
    ] {
        let (client, calls) = store(&[0, 1], code);
        let told = got(&client, &file, by).await;
        assert!(matches!(told, Err(TransferError::Refused(_))), "{code:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{code:?}");
    }
}

#[tokio::test]
async fn a_person_is_told_of_trouble_that_does_not_pass() {
    let file = file();
    let (client, calls) = store(&[0, 1, 2], Code::Unavailable);
    let impatient = || Patience::limited(Caller::Person, Duration::ZERO);
    let source = Sent {
        content: Content::File(&file.path),
        digest: &file.digest,
        size: BYTES.len() as u64,
        by: None,
    };
    let path = file.folder.path().join("got");
    let told = [
        send_with(impatient(), &client, &source, &unwatched).await,
        download_with(impatient(), &client, &file.digest, &path, None, &unwatched).await,
    ];
    for told in told {
        assert!(
            matches!(&told, Err(TransferError::Stuck(status)) if status.message() == "not now"),
            "{told:?}"
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    // Trouble that passes is borne.
    let (client, _) = store(&[0], Code::Unavailable);
    let bytes = got(&client, &file, None).await;
    assert_eq!(bytes.expect("a download"), BYTES);
}
