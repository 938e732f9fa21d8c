//! What may happen, at random.

use proptest::prelude::*;
use qlora_engine::{ArtifactKind, JobKind, Outcome, Prune};

/// A machine of a history, a job, a token: by its number among those that there are.
pub type Pick = usize;

#[derive(Debug, Clone)]
pub enum Act {
    Submit(Submission),
    Cancel(Pick),
    /// The worker registers; it tells what it runs.
    Start(Pick),
    Sync(Pick),
    /// Everybody does, and who has no session registers.
    Renew,
    /// It synchronizes, and the answer is lost on its way.
    SyncInVain(Pick),
    /// The connection breaks on which its call is held.
    BreakOff(Pick),
    Pause(Pick),
    /// A paused job goes on, from its newest checkpoint or from another of those that it has.
    Resume(Pick, Option<Pick>),
    /// A job is done once more, from the start or not, with a key or without, for somebody.
    Retry(Pick, bool, Option<u8>, &'static str),
    RemoveJob(Pick),
    /// Everything, the artifacts or the records of a job go.
    Prune(Pick, Prune),
    /// It says whether it is about to end.
    Drain(Pick, bool),
    /// An operator drains it; whether its attempt is not waited for.
    OperatorDrains(Pick, bool),
    /// One that is drained, mostly.
    OperatorUndrains(Pick),
    /// No job may start; or any again.
    DrainQueue,
    UndrainQueue,
    /// Its process ends; whether the coordinator sees the connection break.
    Crash(Pick, bool),
    /// It ends, and its state folder is lost.
    Wipe(Pick),
    Remove(Pick),
    Report(Pick, u32, u64, Option<u32>),
    Commit(Pick, ArtifactKind, u64),
    Offer(Pick, u8),
    /// The worker of a rank ends an attempt; whether it has handed in what the job is for.
    Finish(Pick, u32, Outcome, bool),
    /// Something that was said comes once more.
    Repeat(Pick),
    /// Three jobs fail on a worker and succeed elsewhere.
    FailHereAlone(Pick),
    Pass(u64),
    /// Time passes up to the next deadline, and no further.
    Follow,
    /// The coordinator stands still.
    Stall(u64),
    /// It is away for so long, and comes back with what it has stored.
    Restart(u64),
    /// Ended jobs leave the engine's memory.
    PutEndedAway,
    /// A batch of events that cannot be stored.
    Unstored(Vec<(u8, Pick)>),
    /// Everybody whose call is held asks without having been woken.
    Poll,
}

/// What a job asks for.
#[derive(Debug, Clone)]
pub struct Submission {
    pub kind: JobKind,
    pub workers: usize,
    /// A label that one worker has, or that none has.
    pub label: Option<&'static str>,
    /// A model that two workers have, or one, or none.
    pub model: Option<&'static str>,
    pub limit: Option<u64>,
    pub key: Option<u8>,
    pub retries: u32,
    pub keep: u32,
    pub priority: i32,
    pub owner: &'static str,
    /// Jobs that it comes after, those that there are and others; or after any end of theirs.
    pub after: Vec<Pick>,
    pub after_any: bool,
}

fn submission() -> impl Strategy<Value = Submission> {
    let kind =
        prop_oneof![4 => Just(JobKind::Train), 1 => Just(JobKind::Eval), 1 => Just(JobKind::Noop)];
    let label = prop_oneof![6 => Just(None), 2 => Just(Some("fast")), 1 => Just(Some("none"))];
    let model = prop_oneof![2 => Just(None), 4 => Just(Some("many")), 2 => Just(Some("one")), 1 => Just(Some("none"))];
    let workers = prop_oneof![4 => Just(1usize), 2 => Just(2), 1 => Just(3)];
    let limit = prop::option::weighted(0.3, 100..4000u64);
    let key = prop::option::weighted(0.2, 0..3u8);
    let numbers = (0..3u32, 0..3u32, -1..2i32);
    let after = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(0..20usize, 1..3)];
    let terms = (owner(), after, any::<bool>());
    (kind, workers, label, model, limit, key, numbers, terms).prop_map(
        |(kind, workers, label, model, limit, key, (retries, keep, priority), terms)| Submission {
            kind,
            workers,
            label,
            model,
            limit,
            key,
            retries,
            keep,
            priority,
            owner: terms.0,
            after: terms.1,
            after_any: terms.2,
        },
    )
}

fn owner() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("ann"), Just("bob"), Just("cy")]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Succeeded),
        1 => Just(Outcome::BadInput),
        1 => Just(Outcome::OutOfMemory),
        4 => Just(Outcome::Failed),
        1 => Just(Outcome::NoRoom),
        1 => Just(Outcome::Stopped),
        1 => Just(Outcome::Lost),
        2 => Just(Outcome::PeerLost)
    ]
}

fn part() -> impl Strategy<Value = Prune> {
    prop_oneof![
        1 => Just(Prune::Job),
        2 => Just(Prune::Artifacts),
        2 => Just(Prune::Records)
    ]
}

pub fn act() -> impl Strategy<Value = Act> {
    let machine = 0..4usize;
    let kind = prop_oneof![3 => Just(ArtifactKind::Checkpoint), 1 => Just(ArtifactKind::Adapter)];
    prop_oneof![
        6 => submission().prop_map(Act::Submit),
        2 => (0..20usize).prop_map(Act::Cancel),
        2 => (0..20usize).prop_map(Act::Pause),
        3 => (0..20usize, prop::option::weighted(0.8, 0..3usize)).prop_map(|(job, from)| Act::Resume(job, from)),
        2 => (0..20usize, any::<bool>(), prop::option::weighted(0.2, 0..3u8), owner()).prop_map(|(job, start, key, owner)| Act::Retry(job, start, key, owner)),
        1 => (0..20usize).prop_map(Act::RemoveJob),
        2 => (0..20usize, part()).prop_map(|(job, what)| Act::Prune(job, what)),
        4 => machine.clone().prop_map(Act::Start),
        9 => machine.clone().prop_map(Act::Sync),
        6 => Just(Act::Renew),
        1 => machine.clone().prop_map(Act::SyncInVain),
        1 => machine.clone().prop_map(Act::BreakOff),
        1 => (machine.clone(), any::<bool>()).prop_map(|(w, on)| Act::Drain(w, on)),
        1 => (machine.clone(), any::<bool>()).prop_map(|(w, now)| Act::OperatorDrains(w, now)),
        3 => machine.clone().prop_map(Act::OperatorUndrains),
        1 => Just(Act::DrainQueue),
        3 => Just(Act::UndrainQueue),
        1 => (machine.clone(), any::<bool>()).prop_map(|(w, seen)| Act::Crash(w, seen)),
        1 => machine.clone().prop_map(Act::Wipe),
        1 => machine.clone().prop_map(Act::Remove),
        4 => (0..12usize, 0..3u32, 1..4u64, prop::option::of(0..5u32)).prop_map(|(t, r, b, s)| Act::Report(t, r, b, s)),
        6 => (0..12usize, kind, 0..20u64).prop_map(|(t, kind, step)| Act::Commit(t, kind, step)),
        1 => (0..12usize, 0..2u8).prop_map(|(t, n)| Act::Offer(t, n)),
        5 => (0..12usize, 0..3u32, outcome(), prop::bool::weighted(0.8)).prop_map(|(t, r, o, with)| Act::Finish(t, r, o, with)),
        2 => any::<prop::sample::Index>().prop_map(|i| Act::Repeat(i.index(1000))),
        1 => machine.prop_map(Act::FailHereAlone),
        4 => (1..600u64).prop_map(Act::Pass),
        2 => Just(Act::Follow),
        1 => (1..3000u64).prop_map(Act::Stall),
        1 => (0..3000u64).prop_map(Act::Restart),
        2 => prop::collection::vec((0..15u8, 0..12usize), 1..6).prop_map(Act::Unstored),
        3 => Just(Act::PutEndedAway),
        3 => Just(Act::Poll),
    ]
}
