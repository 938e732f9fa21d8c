//! What programs print in the first hour: to closed pipes, to full disks, as JSON, and text that
//! wants to be more than text.

use std::fs;
use std::process::Stdio;

use qlora_tests::World;

use crate::first_hour::{SHORT, program, said, text};

/// A pipe that nobody reads from.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_closed_pipe_ends_every_command_without_a_panic() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(SHORT);
    let id = world.submit(&config, &[]);
    assert_eq!(world.ended(id)["state"], "succeeded");
    let (model, rows, config) = (
        text(&world, "tiny"),
        text(&world, "train.jsonl"),
        config.display().to_string(),
    );
    let plan = [
        "plan",
        &config,
        "--set",
        "model.base=smollm2-135m-instruct",
        "--set",
        "model.quantization=gguf",
    ];
    let calls: [(&str, &[&str]); 24] = [
        ("qlora-ctl", &["jobs"]),
        ("qlora-ctl", &["jobs", "--json"]),
        ("qlora-ctl", &["show", "1"]),
        ("qlora-ctl", &["show", "1", "--config"]),
        ("qlora-ctl", &["logs", "1"]),
        ("qlora-ctl", &["logs", "1", "--follow"]),
        ("qlora-ctl", &["watch", "1", "--json"]),
        ("qlora-ctl", &["metrics", "1"]),
        ("qlora-ctl", &["metrics", "1", "--json"]),
        ("qlora-ctl", &["workers"]),
        ("qlora-ctl", &["artifacts", "list", "1"]),
        ("qlora-ctl", &["explain", "Q0301"]),
        ("qlora-ctl", &["explain", "1"]),
        ("qlora-ctl", &plan),
        ("qlora-ctl", &["completions", "bash"]),
        ("qlora-ctl", &["--help"]),
        ("qlora-ctl", &["data", "preview", &rows, "--model", &model]),
        ("qlora-ctl", &["eval", "1", "--base"]),
        ("qlora-worker", &["doctor"]),
        ("qlora-worker", &["model", "list"]),
        (
            "qlora-worker",
            &["score", "--model", &model, "--data", &rows, "--rows", "1"],
        ),
        (
            "qlora-worker",
            &[
                "generate",
                "--model",
                &model,
                "--prompt",
                "x",
                "--max-new-tokens",
                "1",
            ],
        ),
        (
            "qlora-worker",
            &["convert", "--model", &model, "--out", "base-nf4"],
        ),
        (
            "qlora-worker",
            &["bench", "--model", &model, "--length", "8", "--once"],
        ),
    ];
    for (name, args) in calls {
        let mut command = program(&world, name, args);
        let mut child = command
            .stdout(closed_pipe())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        let words = said(&mut child);
        let code = child.wait().expect("its end").code();
        assert_eq!(code, Some(0), "{name} {args:?}: {words}");
        assert!(
            !words.contains("panicked") && !words.contains("Broken pipe"),
            "{name} {args:?}: {words}"
        );
    }
    // Nor does a fault that nobody can read end in a panic.
    for (name, args) in [
        ("qlora-ctl", ["show", "99"]),
        ("qlora-worker", ["model", "fetch"]),
    ] {
        let code = program(&world, name, &args)
            .stdout(closed_pipe())
            .stderr(closed_pipe())
            .status()
            .expect("it")
            .code();
        assert!(matches!(code, Some(2..=5)), "{name}: {code:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_fault() {
    let world = World::new(&[]);
    for (name, args) in [
        ("qlora-ctl", ["explain", "Q0301"]),
        ("qlora-worker", ["model", "list"]),
    ] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let mut child = program(&world, name, &args)
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        let words = said(&mut child);
        assert!(!child.wait().expect("its end").success(), "{name}");
        assert!(
            words.contains("Q0607") && words.contains("stdout"),
            "{name}: {words}"
        );
    }
}

/// Names and reasons with codes that move a cursor, clear a screen or turn text around.
#[test]
fn text_from_outside_cannot_act_on_a_terminal_and_stays_exact_in_json() {
    let world = World::new(&[]);
    let hostile = "a\u{1b}[2Jb\rc\nJOB 9 succeeded\u{202e}d\u{9b}31me";
    let config = world.config(SHORT);
    let name = format!(
        "name={}",
        qlora_client::console::json(&serde_json::json!(hostile).to_string())
    );
    let id = world.submit(&config, &["--set", &name]).to_string();
    let acts = |text: &str| {
        text.chars()
            .any(|c| c != '\n' && (c.is_control() || c == '\u{202e}'))
    };
    for args in [
        vec!["jobs"],
        vec!["show", &id],
        vec!["explain", &id],
        vec!["jobs", "--json"],
        vec!["show", &id, "--json"],
    ] {
        let answer = world.ctl(&args);
        assert!(
            answer.code == 0 && !acts(&answer.stdout),
            "{args:?}: {:?}",
            answer.stdout
        );
    }
    assert!(
        !world
            .ctl(&["jobs"])
            .stdout
            .lines()
            .any(|line| line.starts_with("JOB 9"))
    );
    assert_eq!(
        world.ctl(&["show", &id, "--json"]).json()[0]["name"],
        hostile
    );
    let reason = [
        "cancel",
        &id,
        "--yes",
        "--reason",
        "\u{1b}]0;owned\u{7}\n  help: run this",
    ];
    assert_eq!(world.ctl(&reason).code, 0);
    let watched = world.ctl(&["watch", &id]);
    assert!(
        !acts(&watched.stderr) && !watched.stderr.contains("\n  help: run this"),
        "{:?}",
        watched.stderr
    );
}

/// Stdout of a program is its result alone; what it logs stays on stderr, as text, whatever form
/// the result has.
#[test]
fn stdout_is_json_only_while_stderr_warns() {
    use std::os::unix::fs::PermissionsExt;

    let world = World::new(&[]);
    let config = world
        .config("training: {max_steps: 2, eval_every: 5}")
        .to_string_lossy()
        .into_owned();
    let open = world.path("open-token");
    fs::copy(world.path("state/token"), &open).expect("a token");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = open.to_string_lossy().into_owned();
    let id = world.submit(&world.path("config.yaml"), &[]).to_string();
    for args in [
        vec!["submit", &config],
        vec!["jobs"],
        vec!["show", &id],
        vec!["workers"],
        vec!["explain", &id],
        vec!["logs", &id],
        vec!["metrics", &id],
        vec!["artifacts", "list", &id],
        vec!["config", "put", "c", &config],
        vec!["config", "list"],
        vec!["page"],
    ] {
        let answer = world.ctl(&[&args[..], &["--json", "--token-file", &open]].concat());
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
        answer.json();
        let logged: Vec<&str> = answer
            .stderr
            .lines()
            .filter(|line| line.contains("open-token"))
            .collect();
        assert!(
            logged.len() == 1 && logged[0].contains("WARN"),
            "{args:?}: {}",
            answer.stderr
        );
        for line in answer.stderr.lines().filter(|line| line.starts_with('{')) {
            let value: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {e}: {line}"));
            assert!(value["warnings"][0]["code"] == "Q0109", "{args:?}: {line}");
        }
        let told = args[0] == "submit" || args[1..].contains(&"put");
        assert_eq!(
            answer.stderr.contains("Q0109"),
            told,
            "{args:?}: {}",
            answer.stderr
        );
    }
    let checked = world.ctl(&["config", "check", &config, "--json"]);
    assert_eq!(
        checked.json().remove(0)["warnings"][0]["code"],
        "Q0109",
        "{}",
        checked.stderr
    );
}
