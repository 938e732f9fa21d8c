//! The results of commands that were received together.

use std::collections::BTreeSet;

use qlora_engine::{Event, JobId, Response, SessionId};
use qlora_store::Write;
use tokio::sync::oneshot;

use crate::error::CallError;

pub(super) type Reply = oneshot::Sender<Result<Response, CallError>>;

/// What one batch of commands leads to.
#[derive(Default)]
pub(super) struct Batch {
    pub dirty: BTreeSet<JobId>,
    pub writes: Vec<Write>,
    pub wakes: Vec<SessionId>,
    pub released: Vec<Released>,
    pub answers: Vec<Answer>,
}

/// An artifact that a job has let go of.
pub(super) struct Released {
    pub job: JobId,
    pub config_hash: String,
    pub digest: String,
}

/// What one event leads to.
pub(super) struct Answer {
    pub reply: Option<Reply>,
    pub response: Response,
    /// The event, where it may be handled though nothing can be stored.
    pub again: Option<Event>,
}
