//! A worker's machine: what lies on its disk, and whether it stands still.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_client::Client;
use qlora_engine::ArtifactKind;
use qlora_proto::{GivenSession, Outcome};
use tokio::sync::Notify;
use tonic::Status;

use super::outbox::Outbox;
use crate::clocks::now;
use crate::coordinator::{NAME, PORT};
use crate::sights::Sight;
use crate::witness::Witness;

/// A machine, and what lies on its disk.
pub struct Machine {
    /// Its name in the network.
    pub host: String,
    /// The name that its worker registers by.
    pub worker: String,
    pub instance: String,
    pub token_file: PathBuf,
    pub witness: Witness,
    kept: Mutex<Kept>,
    /// It stands still.
    still: AtomicBool,
    /// It stands still, or goes on. All who wait hear of it in the order in which they began to.
    turned: Notify,
    /// Its next call arrives twice.
    pub repeats: AtomicBool,
    /// After its next commit the one before arrives once more.
    pub commits_again: AtomicBool,
    /// Its next success is claimed without a result.
    pub claims: AtomicBool,
    /// Until when what its synchronizations are answered gets lost.
    deaf: Mutex<Duration>,
}

/// What lies on the disk.
#[derive(Default)]
pub struct Kept {
    /// The session that the coordinator gave it last.
    pub given: Option<GivenSession>,
    /// What its attempt has to hand in.
    pub left: Option<Left>,
}

impl Kept {
    /// As it is on a disk now, which nobody shares.
    fn copy(&self) -> Self {
        let left = self.left.as_ref().map(|left| Left {
            outbox: Arc::new(left.outbox.copy()),
            ended: left.ended.or(Some(Outcome::Lost)),
            saved: left.saved.clone(),
            ..*left
        });
        Self {
            given: self.given.clone(),
            left,
        }
    }
}

/// What an attempt has to hand in, were the machine to die now.
#[derive(Clone)]
pub struct Left {
    pub job: u64,
    pub token: u64,
    /// None while its child lives.
    pub ended: Option<Outcome>,
    pub saved: Vec<Saved>,
    pub outbox: Arc<Outbox>,
}

/// What a child has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    pub kind: ArtifactKind,
    pub step: u64,
}

impl Machine {
    pub fn new(worker: &str, token_file: PathBuf, witness: Witness) -> Self {
        Self {
            host: worker.to_owned(),
            worker: worker.to_owned(),
            instance: format!("instance of {worker}"),
            token_file,
            witness,
            kept: Mutex::default(),
            still: AtomicBool::default(),
            turned: Notify::default(),
            repeats: AtomicBool::default(),
            commits_again: AtomicBool::default(),
            claims: AtomicBool::default(),
            deaf: Mutex::default(),
        }
    }

    /// A machine `host` with a copy of the state folder of this one.
    pub fn copy(&self, host: String) -> Self {
        Self {
            host,
            kept: Mutex::new(self.kept().copy()),
            ..Self::new(&self.worker, self.token_file.clone(), self.witness.clone())
        }
    }

    /// Another worker that has what the attempt of this one has to hand in.
    pub fn stranger(&self, host: String) -> Self {
        let left = self.kept().copy().left;
        Self {
            kept: Mutex::new(Kept { given: None, left }),
            ..Self::new(&host, self.token_file.clone(), self.witness.clone())
        }
    }

    /// Stands still from now on.
    pub fn pause(&self) {
        self.witness.stands_still(&self.host);
        self.stand(true);
    }

    /// Goes on.
    pub fn go_on(&self) {
        self.stand(false);
    }

    fn stand(&self, still: bool) {
        self.still.store(still, Relaxed);
        self.turned.notify_waiters();
    }

    /// Does `work`, and nothing while the machine stands still.
    pub async fn awake<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let turned = self.turned.notified();
            let is_still = self.still.load(Relaxed);
            tokio::select! {
                biased;
                () = turned => {}
                done = &mut work, if !is_still => return done,
            }
        }
    }

    /// The next call of its attempt arrives twice, and after its next commit the one before.
    pub fn repeat(&self) {
        self.repeats.store(true, Relaxed);
        self.commits_again.store(true, Relaxed);
    }

    /// Its next success is claimed without a result.
    pub fn claim(&self) {
        self.claims.store(true, Relaxed);
    }

    /// What its synchronizations are answered gets lost until `until`.
    pub fn deafen(&self, until: Duration) {
        *self.deaf() = until;
    }

    fn deaf(&self) -> MutexGuard<'_, Duration> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it hears of an `answer` to a synchronization.
    ///
    /// # Errors
    /// That of the answer, or that the answer is lost.
    pub fn hears<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        if now() < *self.deaf() {
            self.witness.saw(Sight::AnswerLost);
            return Err(Status::unavailable("the answer is lost"));
        }
        answer
    }

    /// The machine dies. What a living child has made is there after it only where it `keeps` it.
    pub fn die(&self, keeps: bool) {
        self.witness.machine_died(&self.host);
        let left = &mut self.kept().left;
        left.take_if(|left| left.ended.is_none() && !keeps);
        if let Some(left) = left {
            left.ended.get_or_insert(Outcome::Lost);
        }
    }

    /// A client of the coordinator.
    ///
    /// # Errors
    /// The token file is not there.
    pub fn client(&self) -> Result<Client, qlora_client::ConnectError> {
        Client::new(&format!("http://{NAME}:{PORT}"), Some(&self.token_file))
    }

    pub fn note(&self, what: impl AsRef<str>) {
        self.witness.note(&self.host, what);
    }

    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
