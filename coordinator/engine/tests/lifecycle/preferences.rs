//! Among workers that are free, one that has a job's model is given it; no job waits for one.

use qlora_engine::*;

use crate::world::*;

fn of_model(name: &str, model: &str) -> Box<JobSpec> {
    let mut spec = spec(name);
    spec.needs.model = Some(model.into());
    spec
}

/// Workers that wait, in the order of their names, and the models that each has.
fn waiting<const N: usize>(models: [&[&str]; N]) -> (World, [SessionId; N]) {
    let mut world = World::new();
    let names = ["a", "b", "c"];
    let mut i = 0;
    let sessions = models.map(|models| {
        let session = world.register(names[i], names[i]);
        i += 1;
        assert_eq!(ask(&mut world, session, models), nothing());
        session
    });
    (world, sessions)
}

/// The worker asks for work, and says which models it has.
fn ask(world: &mut World, session: SessionId, models: &[&str]) -> Response {
    world.handle(Event::Synchronize {
        session,
        running: None,
        memory_free: None,
        disk_free: None,
        models: Some(models.iter().map(|&model| model.to_owned()).collect()),
        draining: false,
    })
}

fn nothing() -> Response {
    Response::Wanted(Wanted::Nothing)
}

fn woken(effects: &[Effect]) -> Vec<SessionId> {
    let each = effects.iter().filter_map(|effect| match effect {
        Effect::Wake(session) => Some(*session),
        _ => None,
    });
    each.collect()
}

#[test]
fn the_worker_that_has_the_model_is_woken_and_given_the_job_whoever_asks_first() {
    let (mut world, [a, b]) = waiting([&[], &["m"]]);
    let spec = of_model("x", "m");
    let (_, effects) = world.act(Event::Submit { spec });
    assert_eq!(woken(&effects), [b]);
    assert_eq!(woken(&world.act(Event::Tick).1), []);
    assert_eq!(world.sync(a, None), nothing());
    world.start(b);
    let reason = |name: &str| {
        let worker = world.engine.workers().find(|w| w.name == name);
        verdict(&of_model("y", "m").needs, worker.expect("a worker")).reason
    };
    assert_eq!(reason("a"), "a is suitable and free");
    assert_eq!(reason("b"), "b is suitable and has the model, but busy");
}

#[test]
fn a_job_does_not_wait_for_a_busy_worker_that_has_its_model() {
    let (mut world, [a, b]) = waiting([&[], &["m"]]);
    world.submit(spec("other"));
    world.start(b);
    assert_eq!(world.sync(a, None), nothing());
    let spec = of_model("x", "m");
    let (_, effects) = world.act(Event::Submit { spec });
    assert_eq!(woken(&effects), [a]);
    world.start(a);
}

#[test]
fn a_job_is_not_left_for_a_worker_that_takes_another_one_first() {
    let (mut world, [a, b]) = waiting([&[], &["m"]]);
    let first = world.submit(of_model("first", "m"));
    let second = world.submit(of_model("second", "m"));
    assert_eq!(world.start(a).0, second);
    assert_eq!(world.start(b).0, first);
}

#[test]
fn a_worker_that_was_woken_and_does_not_ask_holds_a_job_for_its_head_start_only() {
    let (mut world, [a, b]) = waiting([&[], &["m"]]);
    let job = world.submit(of_model("x", "m"));
    let until = Millis(limits().head_start);
    assert_eq!(world.engine.next_deadline(world.now.steady), Some(until));
    assert_eq!(woken(&world.pass(until.0 - 1)), []);
    assert_eq!(world.sync(a, None), nothing());
    assert_eq!(woken(&world.pass(1)), [a]);
    assert_eq!(world.start(a).0, job);
    assert_eq!(world.sync(b, None), nothing());
}

#[test]
fn a_worker_that_has_gone_is_not_waited_for() {
    let (mut world, [a, b]) = waiting([&[], &["m"]]);
    let job = world.submit(of_model("x", "m"));
    let effects = world.act(Event::Leave { session: b }).1;
    assert_eq!(woken(&effects), [a]);
    assert_eq!(world.start(a).0, job);
}

#[test]
fn a_drained_worker_and_one_that_does_not_fit_are_not_preferred() {
    let (mut world, [a, _b, _c]) = waiting([&[], &["m"], &["m"]]);
    world.handle(Event::Drain {
        worker: "b".into(),
        reason: String::new(),
        at_once: false,
    });
    world.handle(Event::Drain {
        worker: "c".into(),
        reason: String::new(),
        at_once: false,
    });
    let spec = of_model("x", "m");
    let (_, effects) = world.act(Event::Submit { spec });
    assert_eq!(woken(&effects), [a]);
    world.start(a);
}

#[test]
fn a_worker_says_anew_which_models_it_has() {
    let (mut world, [a, b]) = waiting([&["m"], &[]]);
    // It has fetched the model, and the other has removed it.
    assert_eq!(ask(&mut world, a, &[]), nothing());
    assert_eq!(ask(&mut world, b, &["m"]), nothing());
    // Who says nothing of models has those that it had.
    assert_eq!(world.sync(b, None), nothing());
    let spec = of_model("x", "m");
    let (_, effects) = world.act(Event::Submit { spec });
    assert_eq!(woken(&effects), [b]);
}

#[test]
fn the_others_of_a_process_group_have_the_model_where_they_can() {
    let (mut world, [_, b, c]) = waiting([&[], &["m"], &["m"]]);
    let mut spec = for_two("x");
    spec.needs.model = Some("m".into());
    let job = world.submit(spec);
    let (_, token) = world.start(b);
    let attempt = world.job(job).attempt(token).expect("an attempt");
    assert_eq!(attempt.holders().collect::<Vec<_>>(), ["b", "c"]);
    let given = Response::Wanted(Wanted::Run { job, token });
    assert_eq!(world.sync(c, None), given);
}
