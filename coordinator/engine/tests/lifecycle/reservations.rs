//! Time limits, and the shorter jobs that run before an older one of several workers.

use qlora_engine::*;

use crate::world::*;

const MINUTE: u64 = 60_000;

fn limited(name: &str, ms: u64) -> Box<JobSpec> {
    let mut spec = spec(name);
    spec.time_limit = Some(ms);
    spec
}

/// `b` is busy, `a` is kept free for a job of both; the first worker, the second's attempt, and the
/// job of both.
fn one_kept_free(world: &mut World, busy: Box<JobSpec>) -> (SessionId, SessionId, Token, JobId) {
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    world.submit(busy);
    let (_, token) = world.start(b);
    let pair = world.submit(for_two("pair"));
    (a, b, token, pair)
}

#[test]
fn a_job_that_ends_in_time_runs_on_a_worker_that_is_kept_free_and_no_other_does() {
    for busy_by_limit in [true, false] {
        let mut world = World::new();
        let busy = if busy_by_limit {
            limited("busy", 10 * MINUTE)
        } else {
            spec("busy")
        };
        let (a, b, token, pair) = one_kept_free(&mut world, busy);
        if !busy_by_limit {
            let progress = Some(Box::new(Progress {
                seconds_left: Some(600.0),
                ..Progress::default()
            }));
            world.handle(Event::Report {
                session: b,
                token,
                batch: 1,
                progress,
            });
        }
        let unlimited = world.submit(spec("unlimited"));
        let long = world.submit(limited("long", 10 * MINUTE + 1));
        assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
        let kept = world
            .engine
            .kept_for(world.now, world.engine.worker_of(a).expect("a worker"));
        assert_eq!(
            kept,
            Some(Reservation {
                job: pair,
                starts: Some(Millis(10 * MINUTE))
            })
        );
        let (_, effects) = world.act(Event::Submit {
            spec: limited("short", 10 * MINUTE),
        });
        assert!(effects.contains(&Effect::Wake(a)), "{effects:?}");
        let (short, backfilled) = world.start(a);
        assert_eq!(short, JobId(long.0 + 1));
        world.finish(backfilled, Outcome::Succeeded);
        assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
        world.finish(token, Outcome::Succeeded);
        let (first, of_pair) = world.start(b);
        assert_eq!(first, pair, "the older one is not delayed");
        world.finish(of_pair, Outcome::Succeeded);
        assert_eq!(world.start(a).0, unlimited);
    }
}

#[test]
fn where_nobody_knows_when_the_older_job_starts_nothing_runs_before_it() {
    for left in [None, Some(f64::NAN), Some(f64::INFINITY)] {
        let mut world = World::new();
        let (a, b, token, _) = one_kept_free(&mut world, spec("busy"));
        let progress = Some(Box::new(Progress {
            seconds_left: left,
            ..Progress::default()
        }));
        world.handle(Event::Report {
            session: b,
            token,
            batch: 1,
            progress,
        });
        world.submit(limited("short", 1));
        assert_eq!(
            world.sync(a, None),
            Response::Wanted(Wanted::Nothing),
            "{left:?}"
        );
    }
}

#[test]
fn nothing_slips_in_before_the_older_job_while_the_one_it_waits_for_stops() {
    for by_limit in [true, false] {
        let mut world = World::new();
        let (a, b, token, pair) = one_kept_free(&mut world, limited("busy", MINUTE));
        let progress = Some(Box::new(Progress {
            seconds_left: Some(6.0 * 3600.0),
            ..Progress::default()
        }));
        world.handle(Event::Report {
            session: b,
            token,
            batch: 1,
            progress,
        });
        world.now = Now::both(LEASE / 2);
        if by_limit {
            for at in (LEASE / 2..=MINUTE).step_by(LEASE as usize / 2) {
                world.now = Now::both(at);
                world.sync(a, None);
                world.sync(b, Some(token));
                world.handle(Event::Tick);
            }
        } else {
            let job = world.engine.job_of(token).expect("a job");
            world.handle(Event::Cancel {
                job,
                reason: "why".into(),
            });
        }
        world.submit(limited("short", MINUTE));
        assert_eq!(
            world.sync(a, None),
            Response::Wanted(Wanted::Nothing),
            "by its limit: {by_limit}"
        );
        world.finish(token, Outcome::Stopped);
        assert_eq!(world.start(b).0, pair);
    }
}

#[test]
fn an_attempt_is_asked_to_save_when_its_time_is_over_and_a_restart_does_not_give_it_more() {
    let mut world = World::new();
    let a = world.register("a", "1");
    let job = world.submit(limited("x", 500));
    let (_, token) = world.start(a);
    assert_eq!(
        world.engine.next_deadline(world.now.steady),
        Some(Millis(500))
    );
    world.now = Now::both(499);
    world.handle(Event::Tick);
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    let restarted = world.disk.start(world.now, [8; 32]);
    assert_eq!(restarted.next_deadline(world.now.steady), Some(Millis(500)));
    world.now = Now::both(500);
    world.handle(Event::Tick);
    let Response::Wanted(Wanted::Stop {
        reason,
        at_once: false,
        resumes: false,
    }) = world.sync(a, Some(token))
    else {
        panic!("it goes on")
    };
    world.finish(token, Outcome::Stopped);
    let JobState::Cancelled { reason: told, .. } = world.state(job) else {
        panic!("{:?}", world.state(job))
    };
    assert!(
        *told == reason && reason.contains("resources.max_minutes"),
        "{reason}"
    );
    assert!(
        world
            .engine
            .next_deadline(world.now.steady)
            .is_none_or(|t| t > world.now.steady)
    );
}

#[test]
fn a_time_limit_counts_anew_for_each_attempt_and_ends_with_it() {
    let mut world = World::new();
    let a = world.register("a", "1");
    world.submit(limited("x", 500));
    let (_, token) = world.start(a);
    world.now = Now::both(400);
    world.finish(token, Outcome::Stopped);
    let (_, token) = world.start(a);
    world.now = Now::both(899);
    world.handle(Event::Tick);
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
}
