//! Networks that are cut in one direction and in both, for longer and for less than a lease, and
//! connections whose other end is gone without a word.
//!
//! The same is shown with a proxy of the harness, which runs everywhere, and with a cable of the
//! kernel between two network namespaces, which loses packets as a network does and needs root.

use qlora_testkit::skip;
use qlora_tests::{Link, Program, Proxy, Witness, World, wait_until};
use serde_json::Value;
use std::time::Duration;

use crate::faults::{child_of, is_alive, steps};

const ENDLESS: &str =
    "training: {max_steps: 1000000, gradient_accumulation: 8, checkpoint_every: 10, eval_rows: 2}";

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// What the worker says does not arrive.
    Forth,
    /// The worker hears nothing.
    Back,
    Both,
}

/// The way from a worker to its coordinator.
enum Way {
    Proxy(Proxy),
    Cable(Link),
}

impl Way {
    fn cut(&self, cut: Cut) {
        let (forth, back) = (cut != Cut::Back, cut != Cut::Forth);
        match self {
            Self::Proxy(proxy) => {
                if forth {
                    proxy.cut();
                }
                if back {
                    proxy.cut_back();
                }
            }
            Self::Cable(link) => {
                if forth {
                    link.cut_forth().expect("a cut");
                }
                if back {
                    link.cut_back().expect("a cut");
                }
            }
        }
    }

    fn mend(&self) {
        match self {
            Self::Proxy(proxy) => proxy.mend(),
            Self::Cable(link) => link.mend(),
        }
    }
}

/// A coordinator, and the worker `a` at the end of a way.
struct Place {
    world: World,
    way: Way,
    first: Program,
}

impl Place {
    fn with_proxy(lease: &str) -> Self {
        let mut world = World::new(&["--lease", lease]);
        let proxy = Proxy::to(&world.address);
        let first = world.worker_at(&proxy.address.to_string(), "a", &[]);
        Self {
            world,
            way: Way::Proxy(proxy),
            first,
        }
    }

    /// None where this machine has no namespaces for the test.
    fn with_cable(lease: &str) -> Option<Self> {
        let Some(link) = Link::new() else {
            skip("no network namespace can be made here");
            return None;
        };
        let mut world = World::on_all_addresses(&["--lease", lease]);
        let models = allowed(&world);
        let first = world.worker_behind(&link, "a", &["--allow-models", &models]);
        Some(Self {
            world,
            way: Way::Cable(link),
            first,
        })
    }

    /// Submits a job and waits until the worker trains it; its number, and the training process.
    fn training(&self) -> (u64, u32) {
        let id = self.world.submit(&self.world.config(ENDLESS), &[]);
        let stepped = |job: &Value| job["step"].as_u64() > Some(0);
        self.world.wait(id, "a first step", stepped);
        (id, child_of(self.first.pid()).expect("a training process"))
    }

    fn is_connected(&self, name: &str) -> bool {
        let all = self.world.ctl(&["workers", "--json"]).json();
        all.iter()
            .any(|worker| worker["worker"] == name && worker["connected"] == true)
    }

    /// Waits until the job `id` has come `steps` further.
    fn goes_on(&self, id: u64, steps: u64) -> Value {
        let from = self.world.job(id)["step"].as_u64().unwrap_or_default();
        let further = |job: &Value| job["step"].as_u64() > Some(from + steps);
        self.world.wait(id, "further steps", further)
    }
}

/// Where the models of tests lie: a worker that others reach takes no others.
fn allowed(world: &World) -> String {
    world.folder.path().to_string_lossy().into_owned()
}

/// After a cut that is longer than the lease another worker trains the job, and at no time do two
/// processes, neither while the way is cut nor after it.
fn longer_than_the_lease(mut place: Place, cut: Cut) {
    let (id, training) = place.training();
    let models = allowed(&place.world);
    let second = place.world.worker("b", &["--allow-models", &models]);
    let witness = Witness::of(place.world.folder.path());
    place.way.cut(cut);
    let begun = wait_until("a second attempt", || child_of(second.pid()));
    let first_stopped = !is_alive(training);
    let by_second = |job: &Value| job["worker"] == "b" && job["step"].as_u64() > Some(0);
    place.world.wait(id, "the second worker's step", by_second);
    place.way.mend();
    wait_until("the first worker", || place.is_connected("a").then_some(()));
    let job = place.goes_on(id, 20);
    assert_eq!(job["worker"], "b", "{cut:?}: {job:#}");
    assert!(is_alive(begun), "{cut:?}: {}", second.log());
    let sight = witness.sight();
    assert!(sight.pairs.is_empty(), "{cut:?}: {:?}", sight.pairs);
    assert!(first_stopped, "{cut:?}: {}", place.first.log());
}

/// After a cut that is shorter than the lease the same process goes on, and no step is lost.
fn shorter_than_the_lease(place: &Place) {
    let (id, training) = place.training();
    for cut in [Cut::Forth, Cut::Back, Cut::Both] {
        place.way.cut(cut);
        // A part of the lease, in which a silent network gives no sign to wait for.
        std::thread::sleep(Duration::from_secs(3));
        place.way.mend();
        let job = place.goes_on(id, 20);
        let attempts = job["attempts"].as_array().map(Vec::len);
        assert_eq!(attempts, Some(1), "{cut:?}: {job:#}");
        assert!(is_alive(training), "{cut:?}: {}", place.first.log());
    }
    let steps = steps(&place.world, id);
    let wanted: Vec<u64> = (1..=steps.len() as u64).collect();
    assert!(steps == wanted, "a step was lost or doubled: {steps:?}");
    let log = place.first.log();
    assert!(!log.contains("registering again"), "{log}");
}

#[test]
fn after_a_longer_cut_in_either_direction_no_two_train_one_job() {
    for cut in [Cut::Forth, Cut::Back, Cut::Both] {
        longer_than_the_lease(Place::with_proxy("5"), cut);
    }
}

#[test]
fn after_a_longer_cut_of_a_cable_no_two_train_one_job() {
    for cut in [Cut::Forth, Cut::Back, Cut::Both] {
        let Some(place) = Place::with_cable("5") else {
            return;
        };
        longer_than_the_lease(place, cut);
    }
}

#[test]
fn after_a_shorter_cut_in_either_direction_nothing_begins_again() {
    shorter_than_the_lease(&Place::with_proxy("20"));
}

#[test]
fn after_a_shorter_cut_of_a_cable_nothing_begins_again() {
    if let Some(place) = Place::with_cable("20") {
        shorter_than_the_lease(&place);
    }
}

/// With this lease an end that is noticed after 20 s is noticed too late, wherever in its lease the
/// worker is.
#[test]
fn a_connection_whose_other_end_is_gone_without_a_word_costs_no_attempt() {
    let place = Place::with_proxy("24");
    let (id, training) = place.training();
    let Way::Proxy(proxy) = &place.way else {
        unreachable!("the place was made with a proxy");
    };
    proxy.lose_far_ends();
    let job = place.goes_on(id, 20);
    let attempts = job["attempts"].as_array().map(Vec::len);
    assert_eq!(attempts, Some(1), "{job:#}");
    assert!(is_alive(training), "{}", place.first.log());
    let log = place.first.log();
    assert!(!log.contains("stopping"), "{log}");
}
