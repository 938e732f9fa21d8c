//! What an engine gives up when storing fails, and what it never gives out again.

use qlora_engine::*;

use crate::world::*;

#[test]
fn a_batch_that_could_not_be_stored_leaves_no_trace_but_the_sessions() {
    let mut world = World::new();
    let held = world.submit(spec("held"));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, token) = world.start(a);

    let submitted = world.unstored(Event::Submit {
        spec: keyed("unstored", "k"),
    });
    let Response::Submitted {
        job: key,
        created: true,
    } = submitted
    else {
        panic!("{submitted:?}")
    };
    let run = world.unstored(synchronize(b, None));
    let Response::Wanted(Wanted::Run {
        token: unstored, ..
    }) = run
    else {
        panic!("{run:?}")
    };
    let ended = Event::Finish {
        session: a,
        token,
        outcome: Outcome::Failed,
        message: String::new(),
        code: String::new(),
    };
    assert_eq!(world.unstored(ended), Response::Done);
    let Response::Registered { session: c } = world.unstored(register("c", "3", None)) else {
        panic!("no session")
    };
    world.take_back();

    assert!(
        world.engine.job(key).is_none(),
        "a job that was never stored is there"
    );
    assert!(matches!(world.state(held), JobState::Running { token: now, .. } if *now == token));
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    // What was given out and not stored is nobody's, and whoever began on it stops.
    let stop = world.sync(b, Some(unstored));
    assert!(
        matches!(stop, Response::Wanted(Wanted::Stop { at_once: true, .. })),
        "{stop:?}"
    );
    assert_eq!(world.sync(c, None), Response::Wanted(Wanted::Nothing));
    // The key is free, the number is given again, the token is not.
    assert_eq!(world.submit(keyed("again", "k")), key);
    let (_, later) = world.start(b);
    assert!(later > unstored, "{later:?} was given before");
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
}

/// Its submitter asks again, and must not be given a second job.
#[test]
fn a_key_that_went_to_another_job_in_vain_is_the_first_ones_again() {
    let mut world = World::new();
    let first = world.submit(keyed("x", "k"));
    world.handle(Event::Cancel {
        job: first,
        reason: "r".into(),
    });
    let removed = world.unstored(Event::RemoveJob { job: first });
    assert_eq!(removed, Response::Done);
    let submitted = world.unstored(Event::Submit {
        spec: keyed("x", "k"),
    });
    assert!(matches!(
        submitted,
        Response::Submitted { created: true, .. }
    ));
    world.take_back();
    assert_eq!(
        world.handle(Event::Submit {
            spec: keyed("x", "k")
        }),
        Response::Submitted {
            job: first,
            created: false
        }
    );
}

#[test]
fn what_an_unreadable_job_had_is_never_given_again() {
    let mut world = World::new();
    let reserved = Reserved {
        job: JobId(7),
        token: Token(40),
        keys: vec![("k".into(), JobId(5))],
    };
    world.engine.reserve(reserved);
    assert_eq!(
        world.handle(Event::Submit {
            spec: keyed("x", "k")
        }),
        Response::Refused(Refusal::KeyReused(JobId(5)))
    );
    assert_eq!(world.submit(spec("x")), JobId(8));
    let a = world.register("a", "1");
    let (job, token) = world.start(a);
    assert_eq!((job, token.number()), (JobId(8), 41));
}

/// Its call is held meanwhile, and nobody would tell it of the next job.
#[test]
fn who_was_woken_for_what_could_not_be_stored_waits_again() {
    let mut world = World::new();
    let a = world.register("a", "1");
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    world.unstored(Event::Submit {
        spec: spec("unstored"),
    });
    world.take_back();
    let (_, effects) = world.act(Event::Submit {
        spec: spec("stored"),
    });
    assert!(effects.contains(&Effect::Wake(a)), "{effects:?}");
}

/// It has written no other session down: nobody has told it of one.
#[test]
fn who_came_back_without_its_attempt_in_vain_may_come_back_again() {
    let (mut world, Running { session, job, .. }) = World::running(spec("x"));
    let again = presenting(Some(session), ("a", "1"), None);
    for _ in 0..3 {
        let response = world.unstored(again.clone());
        assert!(
            matches!(response, Response::Registered { .. }),
            "{response:?}"
        );
        world.take_back();
        assert!(matches!(world.state(job), JobState::Running { .. }));
    }
    // A copy of its state folder gains nothing by it.
    let copy = presenting(None, ("a", "1"), None);
    assert!(matches!(
        world.handle(copy),
        Response::Refused(Refusal::IdentityTaken { .. })
    ));
    assert!(matches!(world.handle(again), Response::Registered { .. }));
    assert!(matches!(world.state(job), JobState::Queued { .. }));
}
