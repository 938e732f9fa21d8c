//! What `qlora-ctl` says of configurations before work starts, how it ends by a signal, and what it
//! prints where there is nothing to print.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use qlora_tests::{World, launch, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const IDLE: &str = "training: {max_steps: 2, epochs: 3, eval_every: 0}";

#[test]
fn a_key_without_an_effect_is_told_by_every_command_that_reads_a_configuration() {
    let world = World::new(&[]);
    let config = world.config(IDLE).display().to_string();
    // That model's own template cannot render the calls of these rows.
    let known = [
        "--set",
        "model.base=smollm2-135m-instruct",
        "--set",
        "data.template=chatml-tools",
    ];
    let name = "warning[Q0109]: `training.epochs` has no effect: `training.max_steps: 2`";
    for command in [
        &["config", "check"][..],
        &["plan"],
        &["submit"],
        &["config", "put", "mine"],
    ] {
        let settings = if command[0] == "config" && command[1] == "put" {
            &[][..]
        } else {
            &known
        };
        let args = [command, &[config.as_str()], settings].concat();
        let answer = world.ctl(&args);
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
        assert!(
            answer.stderr.contains(name) && answer.stderr.contains("config.yaml:"),
            "{args:?}: {}",
            answer.stderr
        );
        assert!(
            !answer.stdout.contains("warning["),
            "{args:?}: {}",
            answer.stdout
        );
        let quiet = world.ctl(&[&args[..], &["--quiet"]].concat());
        assert!(quiet.stderr.contains(name), "{args:?}: {}", quiet.stderr);
        let json = world.ctl(&[&args[..], &["--json"]].concat());
        let text = if command == ["config", "check"] {
            &json.stdout
        } else {
            &json.stderr
        };
        let value: Value = serde_json::from_str(text.trim()).expect("one object");
        assert_eq!(value["warnings"][0]["code"], "Q0109", "{value}");
        assert!(
            value["warnings"][0]["place"]
                .as_str()
                .is_some_and(|place| place.contains("config.yaml:")),
            "{value}"
        );
    }
}

#[test]
fn config_check_needs_no_coordinator_and_names_every_fault() {
    let mut world = World::new(&[]);
    world.coordinator.kill();
    let good = world
        .config("training: {max_steps: 2, eval_every: 1}")
        .display()
        .to_string();
    let answer = world.ctl(&["config", "check", &good]);
    assert_eq!(
        (answer.code, answer.stderr.as_str()),
        (0, ""),
        "{}",
        answer.stdout
    );
    assert!(answer.stdout.contains("is valid"), "{}", answer.stdout);
    let bad = world
        .config("training: {max_steps: 0, lr: 1}\nlora: {r: 0}")
        .display()
        .to_string();
    let answer = world.ctl(&["config", "check", &bad, "--json"]);
    assert_eq!(answer.code, 3);
    let told: Value = serde_json::from_str(answer.stderr.trim()).expect("JSON");
    assert!(
        told["errors"].as_array().is_some_and(|all| !all.is_empty()),
        "{told}"
    );
    fs::write(
        world.path("utf16.yaml"),
        b"\xff\xfen\0a\0m\0e\0:\0 \0x\0\n\0",
    )
    .expect("a file");
    let answer = world.ctl(&[
        "config",
        "check",
        &world.path("utf16.yaml").to_string_lossy(),
    ]);
    assert!(
        answer.code == 3
            && answer
                .stderr
                .contains("utf16.yaml:1: the text is not UTF-8"),
        "{}",
        answer.stderr
    );
}

#[test]
fn ctrl_c_and_sigterm_end_a_command_that_follows_a_job_alike() {
    let world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world
        .submit(&config, &["--set", "resources.labels.site=mars"])
        .to_string();
    for args in [
        &["watch", &id][..],
        &["watch", &id, "--json"],
        &["logs", &id, "--follow"],
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            let mut command = launch("qlora-ctl");
            command
                .args(args)
                .env("QLORA_URL", &world.address)
                .stdin(Stdio::null());
            let mut child = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("qlora-ctl");
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
            // The command has asked for the signals once it does not end by them any more.
            wait_until("the handler of signals", || {
                Some(()).filter(|()| catches(child.id(), signal))
            });
            kill_process(pid, signal).expect("a signal");
            assert_eq!(
                child.wait().expect("its end").code(),
                Some(130),
                "{args:?} {signal:?}"
            );
        }
    }
    assert_eq!(world.job(id.parse().expect("a number"))["state"], "queued");
}

#[test]
fn a_followed_log_goes_on_where_it_was_when_the_coordinator_is_back() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 60}");
    let id = world.submit(&config, &[]).to_string();
    let followed = world.path("followed");
    let mut command = launch("qlora-ctl");
    command
        .args(["logs", &id, "--follow"])
        .env("QLORA_URL", &world.address)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&followed).expect("a file"))
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("qlora-ctl");
    let read = || fs::read_to_string(&followed).expect("a log");
    wait_until("the first line", || {
        Some(()).filter(|()| !read().is_empty())
    });
    // One that stops in good order ends the stream as the end of a job does; one that is killed
    // breaks it.
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    world.coordinator.kill();
    world.restart_coordinator();
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    let whole = world.ctl(&["logs", &id]).stdout;
    assert!(whole.contains("step 60/60"), "{whole}");
    assert_eq!(read(), whole);
}

/// Whether the process has a handler for `signal`.
pub fn catches(pid: u32, signal: Signal) -> bool {
    has_in(pid, "SigCgt:", signal)
}

/// Whether the process ignores `signal`.
pub fn ignores(pid: u32, signal: Signal) -> bool {
    has_in(pid, "SigIgn:", signal)
}

fn has_in(pid: u32, mask: &str, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(mask));
    let mask = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_token_file_that_all_can_read_is_told_by_all_programs_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "a-secret-of-some-length\n").expect("a token");
    let path = file.to_string_lossy().into_owned();
    for (mode, is_told) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
        let mut world = World::new(&["--token-file", &path]);
        let worker = world.worker("a", &["--token-file", &path]);
        wait_until("the worker", || {
            Some(()).filter(|()| worker.log().contains("registered"))
        });
        let answer = world.ctl(&["workers", "--token-file", &path]);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        for told in [world.coordinator.log(), worker.log(), answer.stderr] {
            assert_eq!(
                told.contains(&format!("chmod 600 {path}")),
                is_told,
                "{mode:o}: {told}"
            );
            assert!(told.matches("chmod 600").count() <= 1, "{told}");
        }
    }
}

#[test]
fn a_list_with_nothing_in_it_says_so_and_prints_no_heading() {
    let world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    for args in [&["jobs"][..], &["workers"], &["config", "list"]] {
        let answer = world.ctl(args);
        assert_eq!((answer.code, answer.stdout.as_str()), (0, ""), "{args:?}");
        assert!(
            answer.stderr.contains("qlora-"),
            "{args:?}: {}",
            answer.stderr
        );
        assert_eq!(
            world.ctl(&[args, &["--json"]].concat()).stdout,
            "",
            "{args:?}"
        );
    }
    let id = world
        .submit(&config, &["--set", "resources.labels.site=mars"])
        .to_string();
    for args in [
        &["artifacts", "list", &id][..],
        &["metrics", &id],
        &["logs", &id],
    ] {
        let answer = world.ctl(args);
        assert_eq!((answer.code, answer.stdout.as_str()), (0, ""), "{args:?}");
        assert!(
            answer.stderr.contains(&format!("job {id} has ")),
            "{args:?}: {}",
            answer.stderr
        );
    }
}
