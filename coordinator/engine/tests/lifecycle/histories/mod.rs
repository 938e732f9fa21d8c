//! Random histories over a disk that only [`Effect::Save`] and [`Effect::Remove`] change, checked
//! after every act.
//!
//! Time passes by random amounts and from deadline to deadline. The engine checks the time at
//! deadlines only, so a missing deadline shows. The rules judge what was acknowledged, which is
//! remembered apart from the engine, so that each rule can fail. To see one fail, break the engine:
//! leave out an `Effect::Save`, let [`Event::Cancel`] end a job that has ended, keep the oldest
//! checkpoints, or leave the time limits out of [`Engine::next_deadline`].

mod acts;
mod healthy;
mod model;
mod rules;
mod terms;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use qlora_engine::*;

use self::acts::{Act, act};
use self::model::{Facts, History, job_of};
use crate::world::*;

impl History {
    fn act(&mut self, act: Act) {
        match act {
            Act::Submit(submission) => drop(self.say(Event::Submit {
                spec: job_of(&submission),
            })),
            Act::Cancel(i) => drop(self.say(Event::Cancel {
                job: JobId(i as u64),
                reason: "r".into(),
            })),
            Act::Pause(i) => self.pause(i),
            Act::Resume(i, from) => self.resume(i, from),
            Act::Retry(i, from_start, key, owner) => drop(self.say(Event::Retry {
                job: JobId(i as u64),
                from_start,
                idempotency_key: key.map(|key| format!("retry {key}")),
                owner: owner.into(),
            })),
            Act::RemoveJob(i) => drop(self.say(Event::RemoveJob {
                job: JobId(i as u64),
            })),
            Act::Prune(i, what) => drop(self.say(Event::Prune {
                job: JobId(i as u64),
                what,
                reason: "r".into(),
            })),
            Act::Start(w) => self.register(w),
            Act::Sync(w) if self.machines[w].stops => self.obey(w),
            Act::Sync(w) => self.sync(w),
            Act::Renew => (0..self.machines.len()).for_each(|w| match self.machines[w].lease {
                Some(_) => self.sync(w),
                None => self.register(w),
            }),
            Act::SyncInVain(w) => {
                self.machines[w].held = None;
                let effects = self.exchange(w).1;
                self.settle(effects);
            }
            Act::BreakOff(w) => self.break_off(w),
            Act::Drain(w, on) => {
                self.machines[w].draining = on;
                self.sync(w);
            }
            Act::OperatorDrains(w, at_once) => {
                let event = drain(self.machines[w].name, at_once);
                self.say(event);
            }
            Act::OperatorUndrains(w) => self.undrain(w),
            Act::DrainQueue => drop(self.say(drain_queue())),
            Act::UndrainQueue => drop(self.say(Event::UndrainQueue)),
            Act::Crash(w, is_seen) => self.crash(w, is_seen),
            Act::Wipe(w) => {
                self.crash(w, true);
                self.machines[w].instance += 1;
                self.machines[w].given = None;
            }
            Act::Remove(w) => {
                let name = self.machines[w].name.into();
                self.say(Event::RemoveWorker { name });
            }
            Act::Report(t, rank, batch, left) => {
                let token = self.token(t);
                let seconds_left = left.map(|s| if s == 0 { f64::NAN } else { f64::from(s) });
                let progress = Some(Box::new(Progress {
                    step: batch,
                    seconds_left,
                    ..Progress::default()
                }));
                let session = self.world.session(token, rank);
                self.say(Event::Report {
                    session,
                    token,
                    batch,
                    progress,
                });
            }
            Act::Commit(t, kind, step) => {
                let token = self.token(t);
                let (session, artifact) = (self.world.session(token, 0), artifact(kind, step));
                self.say(Event::Commit {
                    session,
                    token,
                    artifact,
                });
            }
            Act::Offer(t, n) => {
                let token = self.token(t);
                self.say(offer(self.world.session(token, 0), token, n));
            }
            Act::Finish(t, rank, outcome, with_result) => {
                let token = self.token(t);
                self.finish(token, rank, outcome, with_result);
            }
            Act::Repeat(i) => {
                if let Some(event) = self.said.get(i % self.said.len().max(1)).cloned() {
                    self.say(event);
                }
            }
            Act::FailHereAlone(w) => (0..3).for_each(|_| self.fail_here_and_succeed_elsewhere(w)),
            Act::Pass(ms) => self.pass(ms),
            Act::Follow => {
                let next = self.world.engine.next_deadline(self.world.now.steady);
                self.pass(next.map_or(0, |at| at.0 - self.now()));
            }
            Act::Stall(ms) => self.stall(ms),
            Act::Restart(away) => self.restart(away),
            Act::Unstored(events) => self.unstored(&events),
            Act::PutEndedAway => {
                self.world.engine.put_ended_away();
                rules::check(self);
            }
            Act::Poll => self.poll(),
        }
    }

    /// A worker that an operator has drained, if there is one.
    fn undrain(&mut self, w: usize) {
        let drained: Vec<&String> = self.world.engine.drains().keys().collect();
        let worker = match drained.get(w % drained.len().max(1)) {
            Some(name) => (*name).clone(),
            None => self.machines[w].name.into(),
        };
        self.say(Event::Undrain { worker });
    }

    /// Mostly a job that has saved something and has not ended.
    fn pause(&mut self, i: usize) {
        let has_more = |job: &&Job| job.checkpoint().is_some() && !job.state.is_final();
        let saved: Vec<&Job> = self.world.engine.jobs().filter(has_more).collect();
        let job = saved.get(i % 4).map_or(JobId(i as u64), |job| job.id);
        self.say(Event::Pause {
            job,
            reason: "r".into(),
        });
    }

    /// A job that is paused, mostly.
    fn resume(&mut self, i: usize, from: Option<usize>) {
        let is_paused = |job: &&Job| matches!(job.state, JobState::Paused { .. });
        let paused: Vec<&Job> = self.world.engine.jobs().filter(is_paused).collect();
        let Some(job) = paused.get(i % paused.len().max(1)) else {
            let job = JobId(i as u64);
            drop(self.say(Event::Resume { job, from: None }));
            return;
        };
        let checkpoints = job.artifacts.iter();
        let steps: Vec<u64> = checkpoints
            .filter(|a| a.kind == ArtifactKind::Checkpoint)
            .map(|a| a.step)
            .collect();
        // One step beyond those that there are is refused.
        let step = |pick: usize| steps.get(pick).copied().unwrap_or(99);
        let (job, from) = (job.id, from.map(step));
        self.say(Event::Resume { job, from });
    }

    /// An attempt that runs, mostly; else one of the last that somebody was given, or one that
    /// nobody ever was.
    fn token(&self, i: usize) -> Token {
        let running: Vec<Token> = self
            .world
            .engine
            .jobs()
            .filter_map(Job::current_token)
            .collect();
        let last = self
            .facts
            .tokens
            .iter()
            .rev()
            .nth(i)
            .copied()
            .unwrap_or(Token(0));
        if i % 6 == 5 {
            last
        } else {
            running
                .get(i % running.len().max(1))
                .copied()
                .unwrap_or(last)
        }
    }

    /// Everybody waits in vain who would be answered otherwise now, for nobody has woken it.
    fn poll(&mut self) {
        for w in 0..self.machines.len() {
            if let Some(held) = self.machines[w].held.clone() {
                let effects = self.ask(w);
                assert_eq!(
                    self.machines[w].held,
                    Some(held),
                    "{} was not woken",
                    self.machines[w].name
                );
                self.settle(effects);
            }
        }
    }

    /// A job that fails on the worker and succeeds on another, if both are free.
    fn fail_here_and_succeed_elsewhere(&mut self, w: usize) {
        for other in 0..self.machines.len() {
            if self.machines[other].lease.is_none() {
                self.register(other);
            }
        }
        if self.machines[w].running.is_none() {
            self.say(Event::Submit { spec: spec("x") });
            self.sync(w);
        }
        let Some(token) = self.machines[w].running else {
            return;
        };
        self.finish(token, 0, Outcome::Failed, false);
        self.pass(limits().backoff);
        for other in (0..self.machines.len()).filter(|other| *other != w) {
            self.sync(other);
            if let Some(token) = self.machines[other].running {
                self.finish(token, 0, Outcome::Succeeded, true);
            }
        }
    }

    /// A batch that cannot be stored: nothing of it may stay but leases, and nobody hears an
    /// answer.
    fn unstored(&mut self, events: &[(u8, usize)]) {
        for &(kind, i) in events {
            let (w, token) = (i % self.machines.len(), self.token(i));
            let rank = i as u32 % 3;
            let (first, session) = (
                self.world.session(token, 0),
                self.world.session(token, rank),
            );
            let event = match kind {
                0 => Event::Submit {
                    spec: keyed("unstored", "unstored"),
                },
                1 => Event::Cancel {
                    job: JobId(i as u64),
                    reason: "r".into(),
                },
                2 => Event::Report {
                    session,
                    token,
                    batch: 98,
                    progress: Some(Box::default()),
                },
                3 => Event::Commit {
                    session: first,
                    token,
                    artifact: artifact(ArtifactKind::Checkpoint, 49),
                },
                4 => Event::Finish {
                    session,
                    token,
                    outcome: Outcome::Failed,
                    message: String::new(),
                    code: String::new(),
                },
                5 => offer(first, token, 7),
                6 => Event::Pause {
                    job: JobId(i as u64),
                    reason: "r".into(),
                },
                7 => Event::Resume {
                    job: JobId(i as u64),
                    from: None,
                },
                8 => Event::Retry {
                    job: JobId(i as u64),
                    from_start: i % 2 == 0,
                    idempotency_key: None,
                    owner: "ann".into(),
                },
                9 => Event::RemoveJob {
                    job: JobId(i as u64),
                },
                10 => drain(self.machines[w].name, i % 2 == 0),
                11 => Event::Undrain {
                    worker: self.machines[w].name.into(),
                },
                12 => drain_queue(),
                13 => Event::UndrainQueue,
                _ => {
                    let machine = &mut self.machines[w];
                    machine.held = None;
                    let (Some(session), running) = (machine.session, machine.running) else {
                        continue;
                    };
                    let draining = machine.draining;
                    Event::Synchronize {
                        session,
                        running,
                        memory_free: None,
                        disk_free: None,
                        models: None,
                        draining,
                    }
                }
            };
            let response = self.world.unstored(event);
            if kind > 13 && matches!(response, Response::Wanted(_)) {
                self.machines[w].lease = Some(self.now() + LEASE);
            }
            if let Response::Wanted(Wanted::Run { token, .. }) = response
                && self
                    .world
                    .disk
                    .jobs
                    .values()
                    .all(|job| job.attempt(token).is_none())
            {
                self.facts.in_vain.insert(token);
            }
        }
        self.world.take_back();
        self.facts.see("a batch is taken back");
        self.settle(Vec::new());
    }
}

fn drain_queue() -> Event {
    Event::DrainQueue { reason: "r".into() }
}

fn drain(worker: &str, at_once: bool) -> Event {
    Event::Drain {
        worker: worker.into(),
        reason: "r".into(),
        at_once,
    }
}

fn offer(session: SessionId, token: Token, n: u8) -> Event {
    Event::Offer {
        session,
        token,
        rendezvous: Rendezvous {
            addresses: vec![format!("a:{n}")],
            secret: vec![n],
        },
    }
}

fn play(acts: Vec<Act>) -> Facts {
    let mut history = History::new();
    acts.into_iter().for_each(|act| history.act(act));
    healthy::ends_every_job_that_fits(&mut history);
    history.facts
}

fn history() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 1..200)
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariants_and_every_job_that_fits_ends(acts in history()) {
        play(acts);
    }
}

/// Rules that nothing ever touches would hold for nothing.
#[test]
fn histories_get_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut all = Facts::default();
    for _ in 0..500 {
        let acts = history()
            .new_tree(&mut runner)
            .expect("a history")
            .current();
        for (what, times) in play(acts).seen {
            *all.seen.entry(what).or_default() += times;
        }
    }
    let wanted = [
        "a batch comes twice",
        "a batch is taken back",
        "a dependency ends otherwise",
        "a dependent starts",
        "a queue is full",
        "a checkpoint goes",
        "a checkpoint is taken",
        "a key is known",
        "a key is refused",
        "a result is missing",
        "a step is behind",
        "a stranger is refused",
        "a token is stale",
        "a worker is removed",
        "an assignment is told again",
        "an offer is taken",
        "a job goes to its model",
        "a job goes without its model",
        "a job comes after one that is away",
        "a job is done again",
        "a job is removed",
        "a job goes back to a step",
        "cancelled",
        "drained",
        "failed",
        "lost",
        "one starts",
        "paused",
        "pruned",
        "requeued",
        "resumed",
        "set aside",
        "several start",
        "stopping",
        "succeeded",
        "undrained",
    ];
    let missed: Vec<_> = wanted
        .iter()
        .filter(|what| all.seen.get(*what).is_none_or(|times| *times < 10))
        .collect();
    assert!(missed.is_empty(), "{missed:?} of {:#?}", all.seen);
}
