//! Named invariants after every event of random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;
use qlora_engine::*;

use crate::world::*;

#[derive(Debug, Clone)]
enum Act {
    Submit,
    SubmitForTwo,
    Cancel(usize),
    Register(usize),
    Sync(usize),
    Report(usize),
    Commit(usize, u64),
    Finish(usize, u32, Outcome),
    Pass(u64),
    Restart,
    /// Kinds of events, and whom they are about.
    Unstored(Vec<(u8, usize)>),
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::BadInput),
        Just(Outcome::Failed),
        Just(Outcome::Stopped),
        Just(Outcome::Lost),
        Just(Outcome::PeerLost)
    ];
    prop_oneof![
        2 => Just(Act::Submit),
        2 => Just(Act::SubmitForTwo),
        1 => (0..8usize).prop_map(Act::Cancel),
        2 => (0..3usize).prop_map(Act::Register),
        6 => (0..3usize).prop_map(Act::Sync),
        3 => (0..12usize).prop_map(Act::Report),
        2 => (0..12usize, 0..50u64).prop_map(|(t, s)| Act::Commit(t, s)),
        3 => (0..12usize, 0..3u32, outcome).prop_map(|(t, r, o)| Act::Finish(t, r, o)),
        3 => (1..LEASE).prop_map(Act::Pass),
        1 => Just(Act::Restart),
        2 => prop::collection::vec((0..8u8, 0..12usize), 1..6).prop_map(Act::Unstored),
    ]
}

fn finish(world: &World, token: Token, rank: u32, outcome: Outcome) -> Event {
    Event::Finish { session: world.session(token, rank), token, outcome, message: String::new() }
}

/// A batch of events that cannot be stored; returns the tokens that were given out in it.
fn unstored(world: &mut World, events: &[(u8, usize)], sessions: &[Option<SessionId>], token: Token) -> Vec<Token> {
    world.engine.settled();
    let jobs: Vec<Job> = world.engine.jobs().cloned().collect();
    let mut given = Vec::new();
    for &(kind, i) in events {
        let session = sessions[i % sessions.len()].unwrap_or(SessionId(u64::MAX));
        let event = match kind {
            0 => Event::Submit { spec: spec("x", Some("a key")) },
            1 => Event::Cancel { job: JobId(i as u64), reason: "r".into() },
            2 => Event::Leave { session },
            3 => Event::Report { session: world.session(token, 0), token, batch: 99, progress: Some(Box::default()) },
            4 => finish(world, token, 0, Outcome::Succeeded),
            5 => finish(world, token, i as u32 % 3, Outcome::PeerLost),
            6 => {
                let meeting = Meeting { addresses: vec!["a:1".into()], secret: vec![1] };
                Event::Offer { session: world.session(token, 0), token, meeting }
            }
            _ => Event::Synchronize { session, running: None, memory_free: None, disk_free: None, draining: false },
        };
        if let Response::Wanted(Wanted::Run { token, .. }) = world.handle(event) {
            given.push(token);
        }
    }
    world.engine.take_back(world.now);
    assert_eq!(world.engine.jobs().cloned().collect::<Vec<_>>(), jobs, "something of an unstored batch stayed");
    let known = |session: &SessionId| world.engine.worker_of(*session).is_some_and(|w| w.connected);
    let lost = sessions.iter().flatten().filter(|session| !known(session)).count();
    assert_eq!(lost, 0, "a session ended because of a write that failed");
    // A key of a job that is not there is free again; where it is there, it is a durable one's.
    given.retain(|token| world.engine.job_of(*token).is_none());
    given
}

/// Everything that must hold in every state that can be reached.
fn invariants(engine: &Engine, before: &BTreeMap<JobId, (bool, u64, usize)>) {
    for job in engine.jobs() {
        let ended = job.attempts.iter().filter(|a| a.end.is_none()).count();
        assert_eq!(ended, usize::from(job.current_token().is_some()), "open attempts are the current one: {job:?}");
        assert!(job.attempts.is_sorted_by(|a, b| a.token < b.token), "tokens grow: {job:?}");
        if let Some(&(was_final, step, attempts)) = before.get(&job.id) {
            assert!(!was_final || job.state.is_final(), "a final state was left: {job:?}");
            assert!(job.checkpoint().map_or(0, |a| a.step) >= step, "the checkpoint went back: {job:?}");
            assert!(job.attempts.len() >= attempts, "an attempt was forgotten: {job:?}");
        }
        let results =
            job.attempts.iter().filter(|a| a.end.as_ref().is_some_and(|e| e.outcome == Outcome::Succeeded)).count();
        assert!(results <= 1, "two results: {job:?}");
    }
    for id in before.keys() {
        assert!(engine.job(*id).is_some(), "job {id} was lost");
    }
    let mut wanted: Vec<(&str, Token)> = Vec::new();
    for job in engine.jobs() {
        let Some(attempt) = job.current_token().and_then(|token| job.attempt(token)) else { continue };
        assert_eq!(attempt.size() as usize, job.spec.needs.workers.max(1), "all start or none: {job:?}");
        assert!(attempt.holders().next().is_some(), "an attempt that nobody holds goes on: {job:?}");
        wanted.extend(attempt.holders().map(|worker| (worker, attempt.token)));
    }
    wanted.sort();
    let held: Vec<(&str, Token)> = engine.workers().filter_map(|w| Some((w.name.as_str(), w.assigned?))).collect();
    assert_eq!(held, wanted, "workers hold what attempts say, and nothing that is over");
}

/// Does what the effects ask for until nothing more is asked: a worker that is woken synchronises.
///
/// # Panics
/// They ask for ever: workers would be woken in vain, over and over.
fn settle(world: &mut World, mut effects: Vec<Effect>, running: &mut [Option<Token>; 3], tokens: &mut Vec<Token>) {
    for _ in 0..20 {
        let woken: Vec<SessionId> =
            effects.iter().filter_map(|e| if let Effect::Wake(session) = e { Some(*session) } else { None }).collect();
        if woken.is_empty() {
            return;
        }
        effects.clear();
        for session in woken {
            let known = world.engine.workers().find(|w| w.session == session).map(|w| w.name.clone());
            let Some(w) = known.and_then(|name| name[1..].parse::<usize>().ok()) else { continue };
            let event = Event::Synchronize {
                session,
                running: running[w],
                memory_free: None,
                disk_free: None,
                draining: false,
            };
            let (response, more) = world.engine.handle(world.now, event);
            if let Response::Wanted(Wanted::Run { token, .. }) = response {
                running[w] = Some(token);
                tokens.push(token);
            }
            effects.extend(more);
            effects.extend(world.engine.handle(world.now, Event::Tick).1);
        }
    }
    panic!("workers are woken for ever");
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariants(acts in prop::collection::vec(act(), 1..120)) {
        let mut world = World::new();
        let mut sessions: [Option<SessionId>; 3] = [None; 3];
        let mut running: [Option<Token>; 3] = [None; 3];
        let mut tokens: Vec<Token> = vec![Token(0)];
        let mut never_stored: Vec<Token> = Vec::new();
        for act in acts {
            let before = world.engine.jobs()
                .map(|j| (j.id, (j.state.is_final(), j.checkpoint().map_or(0, |a| a.step), j.attempts.len())))
                .collect();
            let pick = |i: usize| tokens[i % tokens.len()];
            match act {
                Act::Submit => { world.submit(spec("x", None)); }
                Act::SubmitForTwo => { world.submit(for_two("x")); }
                Act::Cancel(i) => { world.handle(Event::Cancel { job: JobId(i as u64), reason: "r".into() }); }
                Act::Register(w) => {
                    let event = register(&format!("w{w}"), &format!("{w}"), running[w]);
                    if let Response::Registered { session } = world.handle(event) { sessions[w] = Some(session); }
                }
                Act::Sync(w) => if let Some(session) = sessions[w] {
                    match world.sync(session, running[w]) {
                        Response::Wanted(Wanted::Run { token, .. }) => { running[w] = Some(token); tokens.push(token); }
                        Response::Wanted(Wanted::Stop { .. }) => {
                            if let Some(token) = running[w].take() {
                                let attempt = world.engine.jobs().find_map(|j| j.attempt(token));
                                let rank = attempt.and_then(|a| a.rank(&format!("w{w}"))).expect("its attempt");
                                world.finish_as(token, rank, Outcome::Stopped);
                            }
                        }
                        Response::Refused(_) => sessions[w] = None,
                        _ => {}
                    }
                },
                Act::Report(t) => {
                    let (session, token) = (world.session(pick(t), 0), pick(t));
                    world.handle(Event::Report { session, token, batch: 1, progress: None });
                }
                Act::Commit(t, step) => {
                    let artifact = Artifact { kind: "checkpoint".into(), name: format!("{step}"), digest: "d".into(), size: 1, step };
                    let (session, token) = (world.session(pick(t), 0), pick(t));
                    world.handle(Event::Commit { session, token, artifact });
                }
                Act::Finish(t, rank, outcome) => {
                    let token = pick(t);
                    let attempt = world.engine.jobs().find_map(|j| j.attempt(token));
                    let gone = |w: usize| attempt.is_none_or(|a| a.rank(&format!("w{w}")) == Some(rank));
                    let gone: Vec<usize> = (0..3).filter(|&w| running[w] == Some(token) && gone(w)).collect();
                    world.finish_as(token, rank, outcome);
                    for w in gone { running[w] = None; }
                }
                Act::Pass(ms) => { world.now = Now::both(world.now.steady.0 + ms); world.handle(Event::Tick); }
                Act::Restart => {
                    let jobs = world.engine.jobs().cloned().collect();
                    world.engine = Engine::new(limits(), jobs, world.now, [9; 32]);
                    sessions = [None; 3];
                    // Nobody ever had them.
                    never_stored.clear();
                }
                Act::Unstored(events) => {
                    // Sessions whose lease has ended are gone by themselves.
                    let mut live = sessions;
                    for session in &mut live {
                        *session = session.filter(|s| world.engine.worker_of(*s).is_some());
                    }
                    never_stored.extend(unstored(&mut world, &events, &live, pick(events.len())));
                }
            }
            let (_, effects) = world.engine.handle(world.now, Event::Tick);
            settle(&mut world, effects, &mut running, &mut tokens);
            prop_assert!(tokens.iter().all(|token| !never_stored.contains(token)), "a token was given twice");
            invariants(&world.engine, &before);
        }
    }
}
