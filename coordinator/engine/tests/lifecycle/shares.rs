//! Fair share: among jobs of one priority comes first who holds least and has used least.

use qlora_engine::*;

use crate::world::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// `owner` uses one worker for so long.
fn use_up(world: &mut World, session: SessionId, owner: &str, ms: u64) {
    let job = world.submit(of(owner, spec("used")));
    let (started, token) = world.start(session);
    assert_eq!(started, job);
    pass_alive(world, session, token, ms);
    world.finish(token, Outcome::Succeeded);
}

/// Time passes, and the worker renews its lease meanwhile.
fn pass_alive(world: &mut World, session: SessionId, token: Token, ms: u64) {
    world.now = Now::both(world.now.steady.0 + ms);
    world.handle(Event::Stalled { ms });
    world.sync(session, Some(token));
}

/// The owners of the jobs that `session` is given, each of which ends at once.
fn given(world: &mut World, session: SessionId, jobs: usize) -> Vec<String> {
    let mut owners = Vec::new();
    for _ in 0..jobs {
        let (job, token) = world.start(session);
        owners.push(world.job(job).spec.owner.clone());
        world.finish(token, Outcome::Succeeded);
    }
    owners
}

#[test]
fn who_has_fewer_workers_in_use_comes_first_and_a_queue_of_one_user_keeps_its_order() {
    let mut world = World::new();
    let sessions = ["a", "b", "c", "d"].map(|name| world.register(name, "1"));
    let ann = [0, 1, 2].map(|_| world.submit(of("ann", spec("x"))));
    let bob = [0, 1].map(|_| world.submit(of("bob", spec("x"))));
    let started = sessions.map(|session| world.start(session).0);
    // Both have nothing, and the older job is Ann's; then they take turns.
    assert_eq!(started, [ann[0], bob[0], ann[1], bob[1]]);
    assert_eq!(world.engine.queued_before(ann[2]), 0);
}

#[test]
fn a_job_of_several_workers_counts_for_as_many() {
    let mut world = World::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| world.register(name, "1"));
    world.sync(b, None);
    world.submit(of("ann", for_two("pair")));
    let (_, token) = world.start(a);
    assert_eq!(
        world.sync(b, None),
        Response::Wanted(Wanted::Run {
            job: JobId(1),
            token
        })
    );
    world.submit(of("ann", spec("later")));
    let bob = [0, 1].map(|_| world.submit(of("bob", spec("x"))));
    assert_eq!([world.start(c).0, world.start(d).0], bob);
}

#[test]
fn a_greater_priority_comes_before_every_share() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.register(name, "1"));
    world.submit(of("ann", spec("x")));
    world.start(a);
    world.submit(of("bob", spec("x")));
    let mut urgent = of("ann", spec("urgent"));
    urgent.priority = 1;
    let urgent = world.submit(urgent);
    assert_eq!(world.start(b).0, urgent);
}

#[test]
fn of_those_who_hold_as_much_comes_first_who_used_less_of_late() {
    let mut world = World::new();
    let a = world.register("a", "1");
    use_up(&mut world, a, "ann", 2 * HOUR);
    use_up(&mut world, a, "bob", HOUR);
    let ann = world.submit(of("ann", spec("x")));
    let bob = world.submit(of("bob", spec("x")));
    assert_eq!(world.engine.queued_before(ann), 1);
    // A coordinator that is started on the same jobs says the same.
    world.restart();
    assert_eq!(world.engine.queued_before(ann), 1);
    assert_eq!(world.engine.queued_before(bob), 0);
}

#[test]
fn what_was_used_weighs_half_with_every_day() {
    let mut world = World::new();
    let a = world.register("a", "1");
    use_up(&mut world, a, "ann", 3 * HOUR);
    let two_days_later = world.now.steady.0 + 2 * DAY;
    world.now = Now::both(two_days_later);
    let a = world.register("a", "1");
    // A quarter of three hours is less than one.
    use_up(&mut world, a, "bob", HOUR);
    world.submit(of("bob", spec("x")));
    world.submit(of("ann", spec("x")));
    assert_eq!(given(&mut world, a, 2), ["ann", "bob"]);
}

#[test]
fn what_could_not_be_stored_was_not_used_and_what_is_deleted_counts_no_more() {
    let mut world = World::new();
    let a = world.register("a", "1");
    use_up(&mut world, a, "ann", HOUR);
    let job = world.submit(of("bob", spec("x")));
    world.unstored(synchronize(a, None));
    assert_eq!(world.engine.usage("bob").running, 1);
    world.take_back();
    let waits = Usage {
        waiting: 1,
        ..Usage::default()
    };
    assert_eq!(world.engine.usage("bob"), waits);
    let ann = world.submit(of("ann", spec("x")));
    assert_eq!(world.engine.queued_before(ann), 1);
    world.handle(Event::RemoveJob { job: JobId(1) });
    // Neither has used anything now, and Bob's job is older.
    assert_eq!(
        (
            world.engine.queued_before(job),
            world.engine.queued_before(ann)
        ),
        (0, 1)
    );
    let next = world.submit(of("bob", spec("x")));
    assert_eq!(world.engine.queued_before(next), 2);
}

/// What ended jobs used is known of those that lie in the store alone, and counts once wherever they
/// are.
#[test]
fn what_ended_jobs_used_counts_the_same_at_hand_or_away_and_over_a_restart() {
    let mut world = World::new();
    let a = world.register("a", "1");
    use_up(&mut world, a, "ann", HOUR);
    use_up(&mut world, a, "ann", HOUR);
    use_up(&mut world, a, "bob", HOUR + 1);
    let ann = world.submit(of("ann", spec("x")));
    let bob = world.submit(of("bob", spec("x")));
    let places = |world: &World| [ann, bob].map(|job| world.engine.queued_before(job));
    assert_eq!(places(&world), [1, 0]);
    world.engine.put_ended_away();
    assert_eq!(places(&world), [1, 0]);
    world.restart();
    assert_eq!(places(&world), [1, 0]);
    // To come to hand, to be taken back and to go away changes nothing.
    for job in [1, 2].map(JobId) {
        world.unstored(Event::RemoveJob { job });
        world.take_back();
        world.engine.put_ended_away();
        assert_eq!(places(&world), [1, 0]);
    }
    let what = Prune::Artifacts;
    for job in [1, 2].map(JobId) {
        let reason = String::new();
        world.handle(Event::Prune { job, what, reason });
        world.engine.put_ended_away();
    }
    assert_eq!(places(&world), [1, 0]);
    // Of what Ann used one half is deleted: a little less is left than Bob has used.
    world.handle(Event::RemoveJob { job: JobId(1) });
    assert_eq!(places(&world), [0, 1]);
    world.restart();
    assert_eq!(places(&world), [0, 1]);
}

/// A job of several workers for which one is kept free comes next, however little the others use
/// that submit one job after another.
#[test]
fn workers_that_are_kept_for_a_job_of_several_are_not_taken_by_who_uses_less() {
    let mut world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.register(name, "1"));
    use_up(&mut world, a, "ann", DAY);
    world.submit(of("bob", spec("first")));
    let (_, busy) = world.start(b);
    let pair = world.submit(of("ann", for_two("pair")));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    let next = world.submit(of("bob", spec("next")));
    assert_eq!(
        (
            world.engine.queued_before(pair),
            world.engine.queued_before(next)
        ),
        (0, 1)
    );
    world.finish(busy, Outcome::Succeeded);
    assert_eq!(world.start(b).0, pair);
}

/// One who submits without end does not keep another waiting, though it has used less.
#[test]
fn nobody_waits_for_longer_than_its_share_lasts() {
    let mut world = World::new();
    let a = world.register("a", "1");
    use_up(&mut world, a, "ann", 4 * HOUR);
    let ann = world.submit(of("ann", spec("x")));
    let mut others = 0;
    loop {
        world.submit(of("bob", spec("x")));
        let (job, token) = world.start(a);
        if job == ann {
            break;
        }
        others += 1;
        assert!(others < 10, "ann starves");
        pass_alive(&mut world, a, token, HOUR);
        world.finish(token, Outcome::Succeeded);
    }
    assert_eq!(others, 4, "bob has used as much, and ann's job is older");
}
