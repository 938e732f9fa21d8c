//! Workers that wait for work hear of it, whatever else waits.

use qlora_engine::*;

use crate::world::*;

/// Nobody carries the label that it wants.
fn for_nobody(name: &str) -> Box<JobSpec> {
    let mut spec = spec(name);
    spec.needs.labels.insert("is".into(), "not there".into());
    spec
}

#[test]
fn an_older_job_that_fits_nobody_does_not_keep_a_younger_one_waiting() {
    for older in 0..3 {
        let mut world = World::new();
        for _ in 0..older {
            world.submit(for_nobody("older"));
        }
        let a = world.register("a", "1");
        let job = world.submit(spec("younger"));
        let (_, token) = world.start(a);
        world.finish(token, Outcome::Failed);
        assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
        assert_eq!(
            world.engine.next_deadline(world.now.steady),
            Some(Millis(limits().backoff))
        );
        assert_eq!(
            world.pass(limits().backoff),
            [Effect::Wake(a)],
            "{older} older jobs"
        );
        assert_eq!(world.start(a).0, job);
    }
}

#[test]
fn what_a_worker_was_woken_for_and_left_goes_to_another_though_older_jobs_fit_nobody() {
    let mut world = World::new();
    world.submit(for_nobody("older"));
    let sessions = [world.register("a", "1"), world.register("b", "2")];
    for session in sessions {
        assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    }
    let (_, effects) = world.act(Event::Submit {
        spec: spec("younger"),
    });
    assert!(effects.contains(&Effect::Wake(sessions[0])), "{effects:?}");
    assert_eq!(
        world
            .act(Event::Leave {
                session: sessions[0]
            })
            .1,
        [Effect::Wake(sessions[1])]
    );
}
