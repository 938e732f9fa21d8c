//! One try at a job, and how it ended.

use serde::{Deserialize, Serialize};

use crate::ids::{Millis, SessionId, Token};

/// One try on one worker, or on several that train together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub token: Token,
    /// The only worker, or the first one, which reports progress and saves.
    pub worker: String,
    /// Which of all workers of that name it is.
    #[serde(default)]
    pub instance: String,
    /// The session under which `worker` spoke last when the job was stored; none where an earlier
    /// version stored it.
    #[serde(default)]
    pub session: Option<SessionId>,
    pub started: Millis,
    /// The greatest batch of reports that was taken from `worker`.
    pub batch: u64,
    pub end: Option<AttemptEnd>,
    /// The others, from rank 1 on.
    #[serde(default)]
    pub others: Vec<Member>,
    /// `worker` has lost another and lets the attempt go; what happened, the other has yet to tell.
    #[serde(default)]
    pub let_go: bool,
    /// Stored jobs have it under the word of earlier versions.
    #[serde(default, rename = "meeting")]
    pub rendezvous: Option<Rendezvous>,
}

/// A worker that trains with the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub worker: String,
    #[serde(default)]
    pub instance: String,
    /// As of the first one.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// The greatest batch of reports that was taken.
    pub batch: u64,
    /// It has let go of the attempt.
    pub done: bool,
}

/// A worker as it stood when an attempt began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: String,
    pub instance: String,
    pub session: Option<SessionId>,
}

/// Where the process group of an attempt finds its rank 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    pub addresses: Vec<String>,
    pub secret: Vec<u8>,
}

impl Attempt {
    pub fn new(token: Token, first: Holder, others: Vec<Holder>, started: Millis) -> Self {
        let member = |holder: Holder| Member {
            worker: holder.worker,
            instance: holder.instance,
            session: holder.session,
            batch: 0,
            done: false,
        };
        let others = others.into_iter().map(member).collect();
        Self {
            token,
            worker: first.worker,
            instance: first.instance,
            session: first.session,
            started,
            batch: 0,
            end: None,
            others,
            let_go: false,
            rendezvous: None,
        }
    }

    /// Workers that have not let go of it, in the order of ranks.
    pub fn holders(&self) -> impl Iterator<Item = &str> {
        self.holding().map(|(worker, ..)| worker)
    }

    /// All that take part or did, in the order of ranks.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &str> {
        let others = self.others.iter().map(|member| member.worker.as_str());
        std::iter::once(self.worker.as_str()).chain(others)
    }

    /// Names, instances and sessions of the holders.
    pub(crate) fn holding(&self) -> impl Iterator<Item = (&str, &str, Option<SessionId>)> {
        let open = self.end.is_none();
        let first = Some((self.worker.as_str(), self.instance.as_str(), self.session));
        let first = first.filter(|_| open && !self.let_go);
        let others = self.others.iter().filter(move |m| open && !m.done);
        let others = others.map(|m| (m.worker.as_str(), m.instance.as_str(), m.session));
        first.into_iter().chain(others)
    }

    /// The worker of `rank` speaks under `session`.
    pub(crate) fn heard_under(&mut self, rank: u32, session: SessionId) {
        let of_rank = match rank.checked_sub(1) {
            None => Some(&mut self.session),
            Some(i) => self.others.get_mut(i as usize).map(|m| &mut m.session),
        };
        if let Some(known) = of_rank {
            *known = Some(session);
        }
    }

    /// The place of `worker`, where it takes part.
    pub fn rank(&self, worker: &str) -> Option<u32> {
        if self.worker == worker {
            return Some(0);
        }
        self.others
            .iter()
            .position(|m| m.worker == worker)
            .map(|i| i as u32 + 1)
    }

    pub fn size(&self) -> u32 {
        self.others.len() as u32 + 1
    }

    /// The worker of `rank` holds it no more; its name, where there is one.
    pub(crate) fn let_go(&mut self, rank: u32) -> Option<String> {
        match rank.checked_sub(1) {
            None => {
                self.let_go = true;
                Some(self.worker.clone())
            }
            Some(i) => {
                let member = self.others.get_mut(i as usize)?;
                member.done = true;
                Some(member.worker.clone())
            }
        }
    }

    /// The greatest batch of the worker of `rank`.
    pub(crate) fn batch_mut(&mut self, rank: u32) -> Option<&mut u64> {
        match rank.checked_sub(1) {
            None => Some(&mut self.batch),
            Some(i) => self.others.get_mut(i as usize).map(|m| &mut m.batch),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub at: Millis,
    pub outcome: Outcome,
    pub message: String,
    /// The error code of what `message` tells; empty where it has none.
    #[serde(default)]
    pub code: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Succeeded,
    /// Configuration, data or model: never repeated.
    BadInput,
    /// Not repeated unchanged.
    OutOfMemory,
    /// Repeated with backoff, counted.
    Failed,
    /// The worker's disk has no room: repeated elsewhere first, with growing waits, not counted.
    NoRoom,
    /// Told to stop.
    Stopped,
    /// The worker is gone: repeated, not counted.
    Lost,
    /// Another worker of the attempt is gone, which tells itself what happened.
    PeerLost,
}
