//! One round: two workers and three jobs, and what a seed does to them.

use std::path::Path;
use std::process::{Child, Stdio};

use qlora_tests::{Program, Witness, World, device, launch, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::ended::{complete, handed_in, nothing_is_left};
use super::schedule::{Act, Victim, acts};
use crate::faults::{adapter, child_of};

/// Seconds after which a worker has lost its job.
const LEASE: &str = "5";
/// So short that several checkpoints lie between two kills; `ended.rs` has its numbers too.
const JOB: &str =
    "training: {max_steps: 80, checkpoint_every: 5, eval_rows: 1}\nresources: {max_retries: 20}";
/// Seeds of the jobs' training.
const JOBS: [u64; 3] = [1, 2, 3];

/// The adapters of the jobs where nobody kills anything.
pub struct Undisturbed(Vec<Vec<u8>>);

impl Undisturbed {
    pub fn train() -> Self {
        let mut world = World::new(&[]);
        let config = world.config(JOB);
        let _workers = ["a", "b"].map(|name| world.worker(name, &[]));
        let ids = JOBS.map(|seed| world.submit(&config, &["--set", &training_seed(seed)]));
        let of = |id| {
            assert_eq!(world.ended(id)["state"], "succeeded");
            adapter(&world, id)
        };
        Self(ids.into_iter().map(of).collect())
    }
}

fn training_seed(seed: u64) -> String {
    format!("training.seed={seed}")
}

/// The key of a job, under which it may be submitted again.
fn key(seed: u64) -> String {
    format!("job-{seed}")
}

/// What the kills of `seed` do to the jobs, held against what they are without.
pub fn round(seed: u64, undisturbed: &Undisturbed) {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path().to_string_lossy().into_owned();
    let mut world = World::with_env(&["--lease", LEASE], &[("TMPDIR", &folder)]);
    let config = world.config(JOB);
    let states = ["a", "b"].map(|name| world.path(&format!("state-of-{name}")));
    let start = |world: &World, i: usize| world.worker_in(["a", "b"][i], &states[i], &[]);
    let mut workers = [start(&world, 0), start(&world, 1)];
    let witness = Witness::of(world.folder.path());
    let mut submitted: Vec<Child> = Vec::new();
    let acts = acts(seed);
    for (i, act) in acts.iter().enumerate() {
        // Some are sent while nobody may be there to take them.
        if let Some(job) = JOBS.get(i) {
            submitted.push(submit(&world, &config, *job));
        }
        // At any time, and not at one that a program has told of.
        std::thread::sleep(act.after);
        kill(&mut world, &mut workers, act, &start);
    }
    let ids = acknowledged(&world, &config, submitted);
    for (id, wanted) in ids.into_iter().zip(&undisturbed.0) {
        complete(&world, id);
        let is_same = adapter(&world, id) == *wanted;
        assert!(is_same, "job {id} has another adapter: {acts:?}");
    }
    let sight = witness.sight();
    assert!(sight.pairs.is_empty(), "{:?}: {acts:?}", sight.pairs);
    assert!(sight.processes >= JOBS.len(), "{sight:?}");
    handed_in(&states);
    for worker in &mut workers {
        assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    }
    nothing_is_left(&world, &states, (temporary.path(), acts.len()));
}

/// Does what `act` says, and starts again what it has ended.
fn kill(
    world: &mut World,
    workers: &mut [Program; 2],
    act: &Act,
    start: &impl Fn(&World, usize) -> Program,
) {
    if let Victim::Coordinator | Victim::Both(_) = act.victim {
        world.coordinator.kill();
    }
    if let Victim::Worker(i) | Victim::Both(i) = act.victim {
        workers[i].kill();
    }
    if let Victim::Training(i) = act.victim
        && let Some(pid) = child_of(workers[i].pid()).and_then(|pid| Pid::from_raw(pid as i32))
    {
        // It may have ended by itself since it was found.
        let _ = kill_process(pid, Signal::KILL);
    }
    std::thread::sleep(act.away);
    if let Victim::Coordinator | Victim::Both(_) = act.victim {
        world.restart_coordinator();
    }
    if let Victim::Worker(i) | Victim::Both(i) = act.victim {
        workers[i] = start(world, i);
    }
}

/// Sends the job whose training has the seed `job`.
fn submit(world: &World, config: &Path, job: u64) -> Child {
    launch("qlora-ctl")
        .env("QLORA_URL", &world.address)
        .arg("submit")
        .arg(config)
        .args(["--set", &format!("resources.device={}", device())])
        .args(["--set", "training.flash_attention=repeatable"])
        .args(["--set", &training_seed(job)])
        .args(["--idempotency-key", &key(job)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qlora-ctl runs")
}

/// The numbers of the jobs. One that was not acknowledged is sent again, under its key; one that
/// was is not made twice.
fn acknowledged(world: &World, config: &Path, submitted: Vec<Child>) -> Vec<u64> {
    let mut ids = Vec::new();
    for (job, sent) in JOBS.into_iter().zip(submitted) {
        let number = |child: Child| {
            let output = child.wait_with_output().expect("an answer");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let number = text.trim().parse::<u64>().ok();
            number.filter(|_| output.status.success())
        };
        let first = number(sent);
        let again = wait_until("a job", || number(submit(world, config, job)));
        assert!(
            first.is_none_or(|first| first == again),
            "{first:?} {again}"
        );
        ids.push(again);
    }
    let jobs = world.ctl(&["jobs", "--json"]).json();
    assert_eq!(jobs.len(), JOBS.len(), "{jobs:?}");
    ids
}
