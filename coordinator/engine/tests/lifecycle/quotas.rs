//! Limits of how much one user may ask for, and a queue that is drained.

use qlora_engine::*;

use crate::world::*;

fn nothing() -> Response {
    Response::Wanted(Wanted::Nothing)
}

fn drain_queue() -> Event {
    Event::DrainQueue {
        reason: "upgrade".into(),
    }
}

#[test]
fn a_job_beyond_the_limit_waits_and_starts_once_another_has_ended() {
    let mut world = World::limited(Some(1), None);
    let [a, b] = ["a", "b"].map(|name| world.register(name, "1"));
    world.submit(of("ann", spec("x")));
    let (_, token) = world.start(a);
    let second = world.submit(of("ann", spec("x")));
    assert_eq!(world.sync(b, None), nothing());
    let job = world.job(second).clone();
    assert!(world.engine.waits_for_a_place(world.now, &job));
    // It keeps nobody else waiting.
    let (_, effects) = world.act(Event::Submit {
        spec: of("bob", spec("x")),
    });
    assert!(effects.contains(&Effect::Wake(b)), "{effects:?}");
    let (of_bob, bobs) = world.start(b);
    assert_eq!(world.job(of_bob).spec.owner, "bob");
    world.finish(bobs, Outcome::Succeeded);
    assert_eq!(world.sync(b, None), nothing());
    world.finish(token, Outcome::Succeeded);
    let woken = world.pass(1);
    assert!(woken.contains(&Effect::Wake(b)), "{woken:?}");
    assert_eq!(world.start(b).0, second);
}

#[test]
fn the_last_place_is_of_the_oldest_job_that_fits_a_worker_and_not_of_one_that_fits_none() {
    let mut world = World::limited(Some(1), None);
    let a = world.register("a", "1");
    let mut elsewhere = of("ann", spec("x"));
    elsewhere.needs.device = Some(DeviceClass::Cuda);
    world.submit(elsewhere);
    // A job of two that fits too few holds no place either.
    world.submit(of("ann", for_two("pair")));
    let fits = world.submit(of("ann", spec("x")));
    let (started, token) = world.start(a);
    assert_eq!(started, fits);
    world.finish(token, Outcome::Succeeded);
    // With a second worker the job of both is the next, and none behind it comes before.
    world.register("b", "1");
    world.submit(of("ann", spec("later")));
    assert_eq!(world.sync(a, None), nothing());
}

#[test]
fn one_more_than_may_wait_is_refused_and_a_known_key_is_not() {
    let mut world = World::limited(None, Some(2));
    let first = world.submit(of("ann", keyed("x", "k")));
    world.submit(of("ann", spec("x")));
    let spec = of("ann", spec("x"));
    let refused = world.handle(Event::Submit { spec: spec.clone() });
    let full = Refusal::QueueFull {
        owner: "ann".into(),
        limit: 2,
    };
    assert_eq!(refused, Response::Refused(full.clone()));
    let said = full.to_string();
    assert!(
        said.contains("ann") && said.contains("--max-queued-per-user"),
        "{said}"
    );
    assert_eq!(world.submit(of("ann", keyed("x", "k"))), first);
    world.submit(of("bob", crate::world::spec("x")));
    // A paused job waits as well, and an ended one does not.
    world.handle(Event::Pause {
        job: first,
        reason: "r".into(),
    });
    let again = world.handle(Event::Submit { spec: spec.clone() });
    assert_eq!(again, Response::Refused(full));
    world.handle(Event::Cancel {
        job: first,
        reason: "r".into(),
    });
    world.submit(spec);
}

#[test]
fn nothing_starts_while_the_queue_is_drained_and_what_runs_goes_on() {
    let (mut world, running) = World::running(spec("x"));
    let waits = world.submit(spec("waits"));
    assert_eq!(world.handle(drain_queue()), Response::Done);
    let b = world.register("b", "1");
    assert_eq!(world.sync(b, None), nothing());
    let (session, token) = (running.session, running.token);
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    // Jobs are taken, and a restart changes nothing of it.
    world.submit(spec("more"));
    world.finish(token, Outcome::Succeeded);
    assert_eq!(world.sync(session, None), nothing());
    world.restart();
    let drain = world.engine.queue_drain().expect("a drain");
    assert_eq!((drain.since, drain.reason.as_str()), (Millis(0), "upgrade"));
    let b = world.register("b", "1");
    assert_eq!(world.sync(b, None), nothing());
    let (_, effects) = world.act(Event::UndrainQueue);
    assert!(effects.contains(&Effect::Wake(b)), "{effects:?}");
    assert_eq!(world.start(b).0, waits);
    assert_eq!(world.act(Event::UndrainQueue), (Response::Done, Vec::new()));
}

#[test]
fn the_queue_is_no_worker() {
    let mut world = World::new();
    world.handle(drain_queue());
    let worker = || Engine::QUEUE.to_owned();
    for event in [
        Event::Undrain { worker: worker() },
        Event::RemoveWorker { name: worker() },
        Event::Drain {
            worker: worker(),
            reason: "r".into(),
            at_once: false,
        },
    ] {
        let refused = Refusal::UnknownWorker(worker());
        assert_eq!(world.handle(event), Response::Refused(refused));
    }
    assert!(world.engine.queue_drain().is_some());
}
