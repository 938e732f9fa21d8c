//! Calls to the coordinator, as its own clients make them: one at a time, and uploads piece by
//! piece.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use qlora_client::{Client, transfer};
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::*;
use qlora_tests::World;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub type Answer<T> = Result<T, Status>;

/// Speaks to the coordinator of a world as its own clients do.
pub struct Speaker(pub Client);

impl Speaker {
    pub fn new(world: &World) -> Self {
        Self(Client::new(&world.address, None).expect("a client"))
    }

    pub async fn submit(&self, name: &str) -> Answer<u64> {
        let request = SubmitRequest {
            kind: JobKind::Noop.into(),
            name: name.into(),
            ..SubmitRequest::default()
        };
        let answer = self.0.jobs.clone().submit(request).await?;
        Ok(answer.into_inner().job.expect("a job").id)
    }

    pub async fn register(&self, name: &str) -> Answer<u64> {
        Ok(self.registration(name).await?.session)
    }

    pub async fn registration(&self, name: &str) -> Answer<RegisterResponse> {
        let platform = Platform {
            device_class: DeviceClass::Cpu.into(),
            memory: 8 << 30,
            ..Platform::default()
        };
        let request = RegisterRequest {
            name: name.into(),
            instance: name.into(),
            platform: Some(platform),
            ..Default::default()
        };
        Ok(self.0.workers.clone().register(request).await?.into_inner())
    }

    pub async fn sync(&self, session: u64, running_token: u64) -> Answer<Wanted> {
        let request = SynchronizeRequest {
            session,
            running_token,
            ..SynchronizeRequest::default()
        };
        Ok(self
            .0
            .workers
            .clone()
            .synchronize(request)
            .await?
            .into_inner()
            .wanted
            .expect("an answer"))
    }

    pub async fn start(&self, session: u64) -> Assignment {
        match self.sync(session, 0).await {
            Ok(Wanted::Run(assignment)) => assignment,
            other => panic!("{other:?}"),
        }
    }

    pub async fn finish(&self, session: u64, token: u64) -> Answer<()> {
        let request = FinishRequest {
            session,
            token,
            outcome: Outcome::Succeeded.into(),
            ..FinishRequest::default()
        };
        self.0.workers.clone().finish(request).await.map(drop)
    }

    pub async fn jobs(&self) -> HashMap<u64, Job> {
        let request = ListJobsRequest {
            limit: 1000,
            ..ListJobsRequest::default()
        };
        let jobs = self
            .0
            .jobs
            .clone()
            .list_jobs(request)
            .await
            .expect("jobs")
            .into_inner()
            .jobs;
        jobs.into_iter().map(|job| (job.id, job)).collect()
    }

    pub async fn stat(&self, digest: &str) -> StatArtifactResponse {
        let request = StatArtifactRequest {
            digest: digest.into(),
        };
        self.0
            .artifacts
            .clone()
            .stat_artifact(request)
            .await
            .expect("a stat")
            .into_inner()
    }
}

/// An upload whose bytes are sent one by one as the test wants.
pub struct Upload {
    sender: mpsc::Sender<UploadRequest>,
    answer: tokio::task::JoinHandle<Answer<()>>,
}

impl Upload {
    pub async fn begin(
        speaker: &Speaker,
        digest: &str,
        size: u64,
        (session, token): (u64, u64),
    ) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let mut client = speaker.0.artifacts.clone();
        let answer =
            tokio::spawn(
                async move { client.upload(ReceiverStream::new(receiver)).await.map(drop) },
            );
        let header = UploadHeader {
            digest: digest.into(),
            size,
            offset: 0,
            token,
            session,
        };
        sender
            .send(UploadRequest {
                header: Some(header),
                data: Vec::new(),
            })
            .await
            .expect("a coordinator");
        Self { sender, answer }
    }

    pub async fn send(&self, data: &[u8]) {
        // Whoever was refused tells why at the end.
        let _ = self
            .sender
            .send(UploadRequest {
                header: None,
                data: data.to_vec(),
            })
            .await;
    }

    pub async fn end(self) -> Answer<()> {
        drop(self.sender);
        self.answer.await.expect("an answer")
    }
}

/// A file of a world, its bytes, digest and size.
pub fn file(world: &World) -> (PathBuf, Vec<u8>, String, u64) {
    let bytes: Vec<u8> = (0..600_000u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let file = world.path("file");
    fs::write(&file, &bytes).expect("a file");
    let (digest, size) = transfer::digest(&file).expect("a digest");
    (file, bytes, digest, size)
}

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(test)
}
