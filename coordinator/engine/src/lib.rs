//! The job engine: one synchronous function per event over owned state.
//!
//! [`Engine::handle`] takes the time and an [`Event`] and returns a [`Response`] and [`Effect`]s.
//! The driver does, in this order and no other: handle, persist, send, acknowledge. A job that was
//! acknowledged is durable, and a message that left is backed by a state that survives.
//!
//! When storing fails, [`Engine::take_back`] undoes what was handled since [`Engine::settled`]:
//! jobs return to their durable state, while sessions and leases stay, since the workers are not at
//! fault.
//!
//! Jobs that have not ended are at hand. Of ended ones the engine keeps an [`Ended`] each, and asks
//! by [`Engine::away`] for those that an event names: their number grows without end.
//!
//! This crate does no input or output, and has no clock and no randomness: time is an argument, and
//! the caller decides what durable means. It knows nothing about tensors: a job needs a number of
//! bytes for each class of device, computed before the job came here.
//!
//! # Properties
//! - An attempt's token only grows over the whole engine; at most one token of a job is current.
//! - A message under a token that is not current changes nothing and is refused with the reason.
//! - A job in a final state never leaves it.
//! - A job that has succeeded has its result: an adapter that was committed, or scores that were
//!   reported. Only what a person or the retention of ended jobs deletes later is missing.
//! - A lost worker's job goes back to the queue; losing does not count as failing, and a loss that
//!   a restart of the coordinator may have caused does not count at all.
//! - A worker that waits is woken when there is work for it, whatever else waits.
//! - Jobs with the same needs start by priority; among those of one priority comes first the one
//!   whose owner has the fewest workers in use and has used least, and jobs of one owner start in
//!   the order of their submission.
//! - No owner has more jobs running, or is given more jobs to wait, than its limits say.
//! - A job that comes after others starts once they have succeeded, and is cancelled if one of them
//!   ends otherwise.
//! - While the queue is drained nothing starts.
//! - A paused job starts only once it is resumed.
//! - A worker that an operator has drained is given nothing until it is undrained.
//! - Among workers that are free, one that has a job's model is given it first; no job waits for
//!   such a worker that is not about to ask.
//! - A job starts before one that is ahead of it in the queue and waits for several workers only if
//!   it ends in time.
//! - A job that wants several workers starts on all of them or on none, and ends on all of them
//!   when it ends on one.

mod attempt;
mod ended;
mod engine;
mod event;
mod ids;
mod job;
mod number;
mod placement;
mod progress;
mod prune;
mod worker;

pub use attempt::{Attempt, AttemptEnd, Holder, Member, Outcome, Rendezvous};
pub use ended::Ended;
pub use engine::{Engine, Limits, Reservation, Reserved, Seed, Usage};
pub use event::{Effect, Event, JournalKind, Refusal, Response, Wanted};
pub use ids::{JobId, Millis, Now, SessionId, Token};
pub use job::{
    After, AfterStop, Artifact, ArtifactKind, File, FileRole, Final, Job, JobKind, JobSpec,
    JobState, Stop,
};
pub use number::Number;
pub use placement::{Verdict, fits, suitable, verdict};
pub use progress::{CallScores, Progress, Sample, Scores};
pub use prune::{Prune, Pruned};
pub use worker::{DeviceClass, Drain, Needs, Platform, Worker};
