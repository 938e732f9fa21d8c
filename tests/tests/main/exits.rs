//! Every exit code that the page of commands lists for `qlora-ctl` is provoked, and no program ends
//! with another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use qlora_tests::{World, launch, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::first_hour_ctl::catches;

/// An exit code, and what a command does to end with it: with what it ended.
type Case = (i32, fn(&mut World) -> i32);

const CASES: [Case; 10] = [
    (0, |world| world.ctl(&["jobs"]).code),
    (1, failed),
    (2, |world| world.ctl(&["jobs", "--nosuch"]).code),
    (3, |world| {
        world
            .ctl(&["config", "check", &config(world, "lora: {rnk: 8}")])
            .code
    }),
    (4, |world| {
        world.ctl(&["jobs", "--coordinator", "127.0.0.1:1"]).code
    }),
    (5, |world| world.ctl(&["show", "77"]).code),
    (6, |world| {
        world
            .ctl(&["plan", &config(world, ""), "--memory", "0.0001"])
            .code
    }),
    (7, cancelled),
    (124, |world| waits(world, &["--timeout", "1"])),
    (130, interrupted),
];

fn config(world: &World, extra: &str) -> String {
    world.config(extra).to_string_lossy().into_owned()
}

fn submitted(world: &World, set: &[&str]) -> String {
    world
        .submit(&world.config("training: {max_steps: 2}"), set)
        .to_string()
}

/// The model is on no machine.
fn failed(world: &mut World) -> i32 {
    let id = submitted(world, &["--set", "model.base=/nowhere/at/all"]);
    let mut worker = world.worker("a", &[]);
    let code = world.ctl(&["watch", &id]).code;
    worker.stop();
    code
}

fn cancelled(world: &mut World) -> i32 {
    let id = submitted(world, &["--set", "resources.labels.site=mars"]);
    assert_eq!(world.ctl(&["cancel", &id, "--yes"]).code, 0);
    world.ctl(&["watch", &id]).code
}

/// The code of watching a job that no worker takes.
fn waits(world: &World, args: &[&str]) -> i32 {
    let id = submitted(world, &["--set", "resources.labels.site=mars"]);
    world.ctl(&[&["watch", &id], args].concat()).code
}

fn interrupted(world: &mut World) -> i32 {
    let id = submitted(world, &["--set", "resources.labels.site=mars"]);
    let mut command = launch("qlora-ctl");
    command
        .args(["watch", &id])
        .env("QLORA_URL", &world.address)
        .stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qlora-ctl");
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
    wait_until("the handler of signals", || {
        Some(()).filter(|()| catches(child.id(), Signal::INT))
    });
    kill_process(pid, Signal::INT).expect("a signal");
    child.wait().expect("its end").code().expect("a code")
}

#[test]
fn every_documented_exit_code_is_provoked() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let page = fs::read_to_string(page).expect("the page");
    let table = page
        .split("\n## Exit codes\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("the table");
    let listed: BTreeSet<i32> = table
        .lines()
        .filter_map(|line| line.split('|').nth(1)?.trim().parse().ok())
        .collect();
    assert_eq!(
        CASES
            .map(|(code, _)| code)
            .into_iter()
            .collect::<BTreeSet<_>>(),
        listed
    );
    let mut world = World::new(&[]);
    for (code, provoke) in CASES {
        assert_eq!(provoke(&mut world), code);
    }
}
