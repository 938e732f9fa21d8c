//! A worker that speaks the protocol and trains nothing.

use qlora_client::Client;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    Assignment, DeviceClass, FinishRequest, JobKind, Outcome, Platform, RegisterRequest,
    SubmitRequest, SynchronizeRequest,
};

/// How long the coordinator may hold an answer.
const HELD_MS: u32 = 10_000;

/// A registered worker.
#[derive(Clone)]
pub struct Worker {
    pub client: Client,
    pub session: u64,
}

impl Worker {
    pub async fn register(mut client: Client, name: String) -> Self {
        let platform = Platform {
            device_class: DeviceClass::Cpu.into(),
            device_name: "none".into(),
            ..Platform::default()
        };
        let request = RegisterRequest {
            instance: name.clone(),
            name,
            platform: Some(platform),
            ..RegisterRequest::default()
        };
        let answer = client.workers.register(request).await.expect("a session");
        let session = answer.into_inner().session;
        Self { client, session }
    }

    /// Renews the lease and says that `running` runs, 0 for nothing; none once the coordinator is
    /// gone.
    pub async fn synchronize(&mut self, running: u64) -> Option<Wanted> {
        let request = SynchronizeRequest {
            session: self.session,
            running_token: running,
            wait_ms: HELD_MS,
            ..SynchronizeRequest::default()
        };
        self.client
            .workers
            .synchronize(request)
            .await
            .ok()?
            .into_inner()
            .wanted
    }

    /// The next job; none once the coordinator is gone.
    pub async fn next(&mut self) -> Option<Assignment> {
        loop {
            if let Wanted::Run(assignment) = self.synchronize(0).await? {
                return Some(assignment);
            }
        }
    }

    /// The attempt `token` has succeeded; whether the coordinator took it.
    pub async fn finish(&mut self, token: u64) -> bool {
        let request = FinishRequest {
            session: self.session,
            token,
            outcome: Outcome::Succeeded.into(),
            message: String::new(),
            code: String::new(),
        };
        self.client.workers.finish(request).await.is_ok()
    }
}

/// Submits a job that does nothing; its number.
pub async fn submit(client: &mut Client) -> u64 {
    let request = SubmitRequest {
        kind: JobKind::Noop.into(),
        name: "noop".into(),
        ..SubmitRequest::default()
    };
    let answer = client.jobs.submit(request).await.expect("a job");
    answer.into_inner().job.expect("the job").id
}
