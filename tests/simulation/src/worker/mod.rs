//! A worker's machine, and the program on it.
//!
//! The program speaks as the agent does: by its client, its leases and its policy of retries, in the
//! order of its calls. What it does not share with the agent is written after it: the session, the
//! numbered reports, the uploads before a commit, and what a start hands in of an attempt before.
//! Its child trains by the clock.

mod attempt;
mod child;
mod delivery;
mod outbox;
mod session;
mod stopping;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_client::Client;
use qlora_engine::ArtifactKind;
use qlora_proto::{GivenSession, Outcome};

use self::outbox::Outbox;
use self::session::Session;
use crate::coordinator::{NAME, PORT};
use crate::witness::Witness;

/// Until whoever watches over the program starts it again after it has given up.
const AGAIN: Duration = Duration::from_secs(1);

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
}

/// What lies on the disk.
#[derive(Clone, Default)]
struct Kept {
    /// The session that the coordinator gave it last.
    given: Option<GivenSession>,
    /// What its attempt has to hand in.
    left: Option<Left>,
}

/// What an attempt has to hand in, were the machine to die now.
#[derive(Clone)]
struct Left {
    job: u64,
    token: u64,
    /// None while its child lives.
    ended: Option<Outcome>,
    saved: Vec<Saved>,
    outbox: Arc<Outbox>,
}

/// What a child has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Saved {
    kind: ArtifactKind,
    step: u64,
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
        }
    }

    /// A machine `host` with a copy of the state folder of this one.
    pub fn copy(&self, host: String) -> Self {
        Self {
            host,
            worker: self.worker.clone(),
            instance: self.instance.clone(),
            token_file: self.token_file.clone(),
            witness: self.witness.clone(),
            kept: Mutex::new(self.kept().clone()),
        }
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

    /// Runs the program until the machine dies; it is started again whenever it gives up.
    ///
    /// # Errors
    /// There is no client.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        self.witness.note(&self.host, "starts");
        loop {
            let client = self.client()?;
            let gave_up = Session::new(self.clone(), client).run().await;
            self.note(format!("gives up: {}", gave_up.message()));
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A client of the coordinator.
    ///
    /// # Errors
    /// The token file is not there.
    pub fn client(&self) -> Result<Client, qlora_client::ConnectError> {
        Client::new(&format!("http://{NAME}:{PORT}"), Some(&self.token_file))
    }

    fn note(&self, what: impl AsRef<str>) {
        self.witness.note(&self.host, what);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
