//! A coordinator in this process, on a store in memory, with a job that runs.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body::Body as _;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use prost::Message;
use qlora_access::Token;
use qlora_codes::Code;
use qlora_engine::Limits;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    DeviceClass, JobFile, JobKind, Platform, RegisterRequest, RegisterResponse, SubmitRequest,
    SubmitResponse, SynchronizeRequest, SynchronizeResponse, UploadHeader, UploadRequest,
    UploadResponse,
};
use qlora_store::{ArtifactStore, JobStore, MemoryStore};
use qlora_testkit::resolved;
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::basis::Basis;
use crate::caller::Caller;
use crate::tokens::Holder;
use crate::{random, services};

pub const LIST_JOBS: &str = "/qlora.v1.JobService/ListJobs";
const SUBMIT: &str = "/qlora.v1.JobService/Submit";
const UPLOAD: &str = "/qlora.v1.ArtifactService/Upload";
const REGISTER: &str = "/qlora.v1.WorkerService/Register";
const SYNCHRONIZE: &str = "/qlora.v1.WorkerService/Synchronize";

/// How long a call is waited for: those that wait for something to happen are left then, as by a
/// caller that goes away.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a call is waited for that has to be answered.
const LONGEST: Duration = Duration::from_secs(60);
const ROWS: &str = "{\"text\": \"a\"}\n";

pub struct Coordinator {
    service: TowerToHyperService<Router>,
    /// Numbers of jobs, sessions and attempts.
    pub numbers: Vec<u64>,
    /// Names, words, digests and configurations that it takes.
    pub texts: Vec<String>,
    _folder: tempfile::TempDir,
}

/// What a call has got so far.
#[derive(Default)]
pub struct Answer {
    /// None where it is held open.
    pub status: Option<Status>,
    bytes: Vec<u8>,
}

impl Coordinator {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(MemoryStore::default());
        let stored = store.load().await.expect("its state");
        let artifacts = ArtifactStore::open(folder.path(), &stored.owner()).await;
        let basis = Basis {
            store,
            stored,
            artifacts: artifacts.expect("an artifact store"),
            token: Token::parse("a-secret-of-some-length", "test").expect("a token"),
            limits: Limits::default(),
            seed: random::seed().expect("random bytes"),
            loopback_only: true,
        };
        let services = basis.start().await.expect("services");
        let routes = services::routes(services).await.expect("routes");
        let mut coordinator = Self {
            service: TowerToHyperService::new(routes.into_axum_router()),
            numbers: vec![0],
            texts: Vec::new(),
            _folder: folder,
        };
        coordinator.fill().await;
        coordinator
    }

    /// Makes a job and a worker that runs it, and notes what a caller knows of them.
    async fn fill(&mut self) {
        let digest = hex::encode(Sha256::digest(ROWS));
        let header = UploadHeader {
            digest: digest.clone(),
            size: ROWS.len() as u64,
            ..UploadHeader::default()
        };
        let upload = UploadRequest {
            header: Some(header),
            data: ROWS.into(),
        };
        self.done::<UploadResponse>(UPLOAD, &upload).await;
        let config = resolved(&["model.base=owner/name", "data.train=t.jsonl"], &[""; 0]);
        let config = config.json().to_owned();
        let submit = SubmitRequest {
            kind: JobKind::Train as i32,
            name: "first".into(),
            config_json: config.clone(),
            files: vec![JobFile {
                role: "train".into(),
                name: "t.jsonl".into(),
                digest: digest.clone(),
                size: ROWS.len() as u64,
            }],
            idempotency_key: "key".into(),
            ..SubmitRequest::default()
        };
        let submitted: SubmitResponse = self.done(SUBMIT, &submit).await;
        let (session, token) = self.started().await;
        let job = submitted.job.expect("a job").id;
        self.numbers
            .extend([job, session, token, ROWS.len() as u64]);
        let words = [
            "",
            "first",
            "key",
            "w",
            "instance",
            "train",
            "eval",
            "adapter",
            "checkpoint",
            "t.jsonl",
            "submitter",
            "worker",
            "owner/name",
            Code::InvalidModel.id(),
            "loss",
            "info",
            "127.0.0.1:7070",
            "evaluate",
        ];
        self.texts = words.map(str::to_owned).to_vec();
        self.texts.extend([digest, config]);
    }

    /// The session of a worker, and the attempt that it was given.
    async fn started(&self) -> (u64, u64) {
        let platform = Platform {
            device_class: DeviceClass::Cpu as i32,
            device_memory: 64 << 30,
            memory: 64 << 30,
            cpu_cores: 8,
            disk_free: Some(1 << 40),
            ..Platform::default()
        };
        let register = RegisterRequest {
            name: "w".into(),
            instance: "instance".into(),
            platform: Some(platform),
            ..RegisterRequest::default()
        };
        let registered: RegisterResponse = self.done(REGISTER, &register).await;
        let synchronize = SynchronizeRequest {
            session: registered.session,
            ..SynchronizeRequest::default()
        };
        let answer: SynchronizeResponse = self.done(SYNCHRONIZE, &synchronize).await;
        match answer.wanted {
            Some(Wanted::Run(assignment)) => (registered.session, assignment.token),
            other => panic!("the worker is given the job: {other:?}"),
        }
    }

    /// The answer of a call that succeeds.
    async fn done<A: Message + Default>(&self, path: &str, message: &impl Message) -> A {
        let answer = self.ask(path, message).await;
        let status = answer.status.expect(path);
        assert_eq!(status.code(), tonic::Code::Ok, "{path}: {status:?}");
        A::decode(&answer.bytes[5..]).expect("one message")
    }

    /// Makes a call that is answered at once, however busy the machine is.
    pub async fn ask(&self, path: &str, message: &impl Message) -> Answer {
        let body = frame(&message.encode_to_vec());
        self.call_for(LONGEST, path, body).await
    }

    /// Sends `body`, which holds messages in their frames, past the doors.
    pub async fn call(&self, path: &str, body: Vec<u8>) -> Answer {
        self.call_for(PATIENCE, path, body).await
    }

    async fn call_for(&self, patience: Duration, path: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .extension(Caller::new(Holder::Local, None))
            .body(Body::from(body))
            .expect("a request");
        let mut answer = Answer::default();
        // Time that is over says that the call is held.
        let _held = tokio::time::timeout(patience, self.read(request, &mut answer)).await;
        answer
    }

    async fn read(&self, request: Request<Body>, answer: &mut Answer) {
        let response = self.service.call(request).await.expect("an answer");
        answer.status = Status::from_header_map(response.headers());
        let mut body = response.into_body();
        while let Some(part) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match part.expect("a part of the answer").into_data() {
                Ok(bytes) => answer.bytes.extend(bytes),
                Err(part) => {
                    let trailers = part.into_trailers().ok();
                    answer.status =
                        trailers.and_then(|trailers| Status::from_header_map(&trailers));
                }
            }
        }
    }
}

/// A message as gRPC sends it: uncompressed, with its length before it.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}
