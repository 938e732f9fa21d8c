//! How the coordinator ends where it cannot start, and what every program says of a command line
//! that it cannot read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use qlora_tests::{World, launch, wait_until};
use serde_json::Value;

/// A program that does not outlive its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The exit code of a coordinator that is not to start, and what it said.
fn coordinator(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let log = folder.join("start.log");
    let file = fs::File::create(&log).expect("a log");
    let mut command = launch("qlora-coordinator");
    command
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let mut started = Started(command.spawn().expect("qlora-coordinator"));
    let status = wait_until("the end of the start", || {
        started.0.try_wait().expect("a status")
    });
    (status.code(), fs::read_to_string(&log).expect("a log"))
}

#[test]
fn a_coordinator_that_cannot_start_says_why_and_ends_with_the_code_of_its_kind() {
    let world = World::new(&[]);
    let here = world.folder.path();
    let own = ["--listen", "127.0.0.1:0"];
    fs::write(here.join("short"), "abc\n").expect("a token");
    fs::write(here.join("file"), "").expect("a file");
    fs::create_dir(here.join("damaged")).expect("a folder");
    fs::write(
        here.join("damaged/qlora.db"),
        "no database, but a text of some length\n".repeat(200),
    )
    .expect("a file");
    let taken = ["--listen", world.address.as_str(), "--state-dir", "other"];
    for (args, code, words) in [
        (&taken[..], 4, "error[Q0405]"),
        (&["--state-dir", "state"], 5, "error[Q0409]"),
        (&["--state-dir", "file/inner"], 3, "error[Q0601]"),
        (&["--state-dir", "damaged"], 3, "error[Q0601]"),
        (
            &["--state-dir", "s", "--token-file", "nosuch"],
            2,
            "error[Q0407]",
        ),
        (
            &["--state-dir", "s", "--token-file", "short"],
            2,
            "error[Q0407]",
        ),
        (&["--lease", "0"], 2, "--lease"),
        (&["--nosuch"], 2, "--nosuch"),
    ] {
        let listen = if args.contains(&"--listen") {
            &[][..]
        } else {
            &own
        };
        let (found, said) = coordinator(here, &[args, listen].concat());
        assert_eq!(found, Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(
            !words.starts_with("error[") || said.contains("\n  help: "),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn a_database_of_a_newer_version_and_a_folder_that_is_not_writable_are_states_that_cannot_be_used()
{
    let mut world = World::new(&[]);
    world.coordinator.stop();
    let database = world.path("state/qlora.db");
    let python = std::env::var("QLORA_TEST_PYTHON")
        .expect("QLORA_TEST_PYTHON is not set: run tests/run, which installs what this test needs");
    let newer =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 9999')";
    let written = Command::new(python)
        .args(["-c", newer])
        .arg(&database)
        .status();
    assert!(written.expect("Python").success());
    let (code, said) = coordinator(
        world.folder.path(),
        &["--listen", "127.0.0.1:0", "--state-dir", "state"],
    );
    assert!(
        code == Some(3) && said.contains("9999") && said.contains("newer"),
        "{code:?} {said}"
    );
    let locked = world.path("locked");
    fs::create_dir(&locked).expect("a folder");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).expect("a mode");
    // Root may write anywhere.
    if fs::write(locked.join("probe"), "").is_err() {
        let (code, said) = coordinator(
            world.folder.path(),
            &["--listen", "127.0.0.1:0", "--state-dir", "locked"],
        );
        assert_eq!(code, Some(3), "{said}");
    }
}

#[test]
fn what_cannot_be_parsed_is_told_in_the_form_that_was_asked_for() {
    for (program, args) in [
        ("qlora-ctl", &["jobs", "--jsn"][..]),
        ("qlora-ctl", &["show", "seven"]),
        ("qlora-ctl", &["nosuch"]),
        ("qlora-ctl", &["submit"]),
        ("qlora-worker", &["merge", "--model", "x"]),
        ("qlora-worker", &["--patience", "long"]),
        ("qlora-worker", &["doctor", "--nosuch"]),
    ] {
        let json = launch(program)
            .args(args)
            .arg("--json")
            .output()
            .expect(program);
        let said = String::from_utf8_lossy(&json.stderr).into_owned();
        assert_eq!(json.status.code(), Some(2), "{args:?}: {said}");
        let value: Value =
            serde_json::from_str(said.trim()).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"));
        assert_eq!(
            (&value["v"], &value["error"]["code"]),
            (&1.into(), &"Q0001".into()),
            "{said}"
        );
        for key in ["message", "help"] {
            assert!(
                value["error"][key]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{args:?}: {said}"
            );
        }
        let plain = launch(program).args(args).output().expect(program);
        assert_eq!(plain.status.code(), Some(2));
        assert!(
            String::from_utf8_lossy(&plain.stderr).starts_with("error: "),
            "{args:?}"
        );
    }
}

/// The worker's commands tell results and errors in the form of `qlora-ctl`.
#[test]
fn the_workers_commands_print_json_with_their_version_and_coded_errors() {
    let world = World::new(&[]);
    let worker = |args: &[&str]| {
        let mut command = launch("qlora-worker");
        command
            .args(args)
            .arg("--json")
            .current_dir(world.folder.path())
            .env("QLORA_URL", &world.address);
        command.stdin(Stdio::null()).output().expect("qlora-worker")
    };
    for args in [
        &["convert", "--model", "tiny", "--out", "tiny.gguf"][..],
        &[
            "score",
            "--model",
            "tiny",
            "--data",
            "eval.jsonl",
            "--rows",
            "1",
        ],
        &[
            "generate",
            "--model",
            "tiny",
            "--prompt",
            "x",
            "--max-new-tokens",
            "1",
        ],
        &["logits", "--model", "tiny", "--out", "logits.safetensors"],
        &["bench", "--model", "tiny", "--length", "8", "--once"],
        &["model", "list"],
        &["model", "shape", "tiny"],
        &["model", "shape", "tiny.gguf"],
        &["model", "text", "tiny", "--out", "text"],
        &["doctor"],
    ] {
        let output = worker(args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in said.lines() {
            let value: Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {e}: {line}"));
            assert_eq!(value["v"], 1, "{args:?}: {line}");
        }
        assert!(!said.is_empty(), "{args:?}");
    }
    let config = fs::read_to_string(world.path("tiny/config.json")).expect("a configuration");
    fs::create_dir(world.path("odd")).expect("a folder");
    fs::write(
        world.path("odd/config.json"),
        config.replace("\"llama\"", "\"gemma\""),
    )
    .expect("a file");
    fs::create_dir(world.path("cut")).expect("a folder");
    fs::write(world.path("cut/config.json"), &config[..config.len() / 2]).expect("a file");
    for (args, code, exit) in [
        (
            &["score", "--model", "nosuch", "--data", "eval.jsonl"][..],
            "Q0302",
            3,
        ),
        (
            &["score", "--model", "tiny", "--data", "nosuch.jsonl"],
            "Q0203",
            3,
        ),
        (
            &[
                "merge",
                "--model",
                "tiny",
                "--adapter",
                "nosuch",
                "--out",
                "m",
            ],
            "",
            0,
        ),
        (
            &["convert", "--model", "odd", "--out", "o.gguf"],
            "Q0518",
            3,
        ),
        (&["model", "shape", "odd"], "Q0518", 3),
        (&["model", "shape", "cut"], "Q0511", 3),
    ] {
        let output = worker(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value =
            serde_json::from_str(said.trim()).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"));
        let told = value["error"]["code"].as_str().unwrap_or_default();
        assert!(
            told == code || code.is_empty() && told.starts_with("Q0"),
            "{args:?}: {said}"
        );
        assert!(
            !output.status.success() && (exit == 0 || output.status.code() == Some(exit)),
            "{args:?}: {said}"
        );
    }
}
