//! Who submits jobs and acts on them, over a network that nobody cuts.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::until_answered;
use qlora_proto::{
    CancelRequest, DrainWorkerRequest, ExplainRequest, FileRole, JobFile, JobKind, PauseRequest,
    ResumeRequest, RetryRequest, SubmitRequest, UndrainWorkerRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::coordinator::{NAME, PORT};
use crate::schedule::{Ask, STEPS};
use crate::sights::Sight;
use crate::upload::{digest, upload};
use crate::witness::Witness;

/// Its name in the network.
pub const HOST: &str = "person";
/// Rows that every job trains on.
const ROWS: &[u8] = b"rows";
/// What every configuration says.
const COMMON: [&str; 2] = ["model.base=/models/tiny", "data.train=rows.jsonl"];
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Configurations, one for each of [`STEPS`].
static CONFIGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let config = |steps: &u64| {
        let steps = format!("training.max_steps={}", steps.max(&1));
        let resolved = qlora_testkit::resolved(&COMMON, &[steps]);
        resolved.json().to_owned()
    };
    STEPS.iter().map(config).collect()
});

/// What it is to do.
#[derive(Debug, Clone)]
pub enum Wish {
    /// As the schedule says; the number tells wishes apart.
    Ask(usize, Ask),
    Resume(u64),
    Undrain(String),
    /// Says why a job has not ended.
    Explain(u64),
}

/// What it works with.
pub struct Person {
    pub token_file: PathBuf,
    pub witness: Witness,
    pub wishes: Mutex<Option<mpsc::UnboundedReceiver<Wish>>>,
}

impl Person {
    /// Does what it is to do, each thing by itself.
    ///
    /// # Errors
    /// There is no client, or its rows are not taken.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let wishes = self
            .wishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut wishes) = wishes else {
            return Ok(());
        };
        let client = Client::new(&format!("http://{NAME}:{PORT}"), Some(&self.token_file))?;
        upload(&client, &digest(ROWS), ROWS, || (0, 0)).await?;
        let mut fulfilling = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(Err(fault)) = fulfilling.join_next() => {
                    let rule = format!("the simulated person has a fault: {fault}");
                    self.witness.accuse(rule);
                }
                wish = wishes.recv() => match wish {
                    Some(wish) => drop(fulfilling.spawn(self.clone().fulfil(client.clone(), wish))),
                    None => return Ok(()),
                },
            }
        }
    }

    async fn fulfil(self: Arc<Self>, client: Client, wish: Wish) {
        let text = format!("{wish:?}");
        if let Err(fault) = self.try_to(&client, wish).await {
            let answer = format!("{text} is refused: {}", fault.message());
            self.witness.note(HOST, answer);
        }
    }

    async fn try_to(&self, client: &Client, wish: Wish) -> Result<(), Status> {
        match wish {
            Wish::Ask(number, ask) => self.ask(client, number, ask).await,
            Wish::Resume(job) => self.resume(client, job).await,
            Wish::Undrain(worker) => self.undrain(client, worker).await,
            Wish::Explain(id) => {
                let mut jobs = client.jobs.clone();
                let answer = jobs.explain(ExplainRequest { id }).await?.into_inner();
                let rule = format!(
                    "job {id} has not ended, and explain says: {}",
                    answer.summary
                );
                self.witness.accuse(rule);
                Ok(())
            }
        }
    }

    async fn ask(&self, client: &Client, number: usize, ask: Ask) -> Result<(), Status> {
        self.witness.note(HOST, format!("{ask:?}"));
        match ask {
            Ask::Submit {
                steps,
                after,
                twice,
            } => {
                let key = format!("key {number}");
                let known = self.witness.acknowledged();
                let after: Vec<u64> = known.iter().rev().take(after).copied().collect();
                for _ in 0..1 + usize::from(twice) {
                    self.submit(client, &key, (steps, after.clone())).await?;
                }
                Ok(())
            }
            Ask::Pause(job) => self.pause(client, job).await,
            Ask::Resume(job) => match self.job(job) {
                Some(job) => self.resume(client, job).await,
                None => Ok(()),
            },
            Ask::Cancel(job) => self.cancel(client, job).await,
            Ask::Retry { job, from_start } => {
                let key = format!("key {number}");
                self.retry(client, (job, from_start), &key).await
            }
            Ask::Drain { worker, at_once } => self.drain(client, worker, at_once).await,
            Ask::Undrain(worker) => self.undrain(client, worker_name(worker)).await,
        }
    }

    /// The job with the number `number` in the order of acknowledgment, round and round.
    fn job(&self, number: usize) -> Option<u64> {
        let known = self.witness.acknowledged();
        let at = number.checked_rem(known.len())?;
        known.get(at).copied()
    }

    async fn submit(
        &self,
        client: &Client,
        key: &str,
        (steps, after): (u64, Vec<u64>),
    ) -> Result<(), Status> {
        let comes_after = !after.is_empty();
        let request = submission(key, steps, after);
        let answer = answered(|| {
            let (mut jobs, request) = (client.jobs.clone(), request.clone());
            async move { jobs.submit(request).await }
        });
        match answer.await {
            // One that it is to come after has ended otherwise.
            Err(fault) if comes_after && fault.code() == Code::FailedPrecondition => {
                self.witness.turned_away();
                Err(fault)
            }
            Err(fault) => {
                let rule = format!("a submission is refused: {}", fault.message());
                self.witness.accuse(rule);
                Err(fault)
            }
            Ok(answer) => {
                if comes_after {
                    self.witness.saw(Sight::ComesAfter);
                }
                if let Some(job) = answer.job {
                    self.witness.submitted(key, job.id);
                }
                Ok(())
            }
        }
    }

    async fn retry(
        &self,
        client: &Client,
        (job, from_start): (usize, bool),
        key: &str,
    ) -> Result<(), Status> {
        let Some(id) = self.job(job) else {
            return Ok(());
        };
        let answer = answered(|| {
            let mut jobs = client.jobs.clone();
            let request = RetryRequest {
                id,
                from_start,
                idempotency_key: key.to_owned(),
            };
            async move { jobs.retry(request).await }
        });
        if let Some(job) = answer.await?.job {
            self.witness.saw(Sight::Retried);
            self.witness.submitted(key, job.id);
        }
        Ok(())
    }

    async fn pause(&self, client: &Client, job: usize) -> Result<(), Status> {
        let Some(id) = self.job(job) else {
            return Ok(());
        };
        let answer = answered(|| {
            let mut jobs = client.jobs.clone();
            let request = PauseRequest {
                id,
                reason: String::new(),
            };
            async move { jobs.pause(request).await }
        });
        answer.await.map(drop)
    }

    async fn resume(&self, client: &Client, id: u64) -> Result<(), Status> {
        let answer = answered(|| {
            let mut jobs = client.jobs.clone();
            let request = ResumeRequest {
                id,
                from_step: None,
            };
            async move { jobs.resume(request).await }
        });
        answer.await.map(drop)
    }

    async fn cancel(&self, client: &Client, job: usize) -> Result<(), Status> {
        let Some(id) = self.job(job) else {
            return Ok(());
        };
        let answer = answered(|| {
            let mut jobs = client.jobs.clone();
            let request = CancelRequest {
                id,
                reason: String::new(),
            };
            async move { jobs.cancel(request).await }
        });
        answer.await.map(drop)
    }

    async fn drain(&self, client: &Client, worker: usize, now: bool) -> Result<(), Status> {
        let answer = answered(|| {
            let mut workers = client.workers.clone();
            let request = DrainWorkerRequest {
                name: worker_name(worker),
                reason: String::new(),
                now,
            };
            async move { workers.drain_worker(request).await }
        });
        answer.await.map(drop)
    }

    async fn undrain(&self, client: &Client, name: String) -> Result<(), Status> {
        let answer = answered(|| {
            let mut workers = client.workers.clone();
            let request = UndrainWorkerRequest { name: name.clone() };
            async move { workers.undrain_worker(request).await }
        });
        answer.await.map(drop)
    }
}

/// A job of so many steps that comes after `after`.
fn submission(key: &str, steps: u64, after: Vec<u64>) -> SubmitRequest {
    let common = SubmitRequest {
        idempotency_key: key.to_owned(),
        after,
        ..SubmitRequest::default()
    };
    if steps == 0 {
        return SubmitRequest {
            kind: JobKind::Noop.into(),
            ..common
        };
    }
    let at = STEPS.iter().position(|known| *known == steps);
    let config = at.and_then(|at| CONFIGS.get(at)).cloned();
    let file = JobFile {
        role: FileRole::Train.to_string(),
        name: "rows.jsonl".into(),
        digest: digest(ROWS),
        size: ROWS.len() as u64,
    };
    SubmitRequest {
        kind: JobKind::Train.into(),
        name: key.to_owned(),
        config_json: config.unwrap_or_default(),
        files: vec![file],
        ..common
    }
}

/// The name of a worker, and of its machine.
pub fn worker_name(worker: usize) -> String {
    format!("worker-{worker}")
}

/// The answer to a call that is made again until there is one.
async fn answered<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    until_answered(|| {
        let call = call();
        async move {
            let late = |_| Status::deadline_exceeded("no answer");
            let answer = timeout(PATIENCE, call).await.map_err(late)??;
            Ok(answer.into_inner())
        }
    })
    .await
}
