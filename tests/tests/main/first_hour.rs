//! What a new user meets in the first hour: paths, waiting jobs, wrong tokens and misspelled names.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qlora_tests::{World, conversations, launch, wait_until};
use serde_json::Value;

pub const SHORT: &str = "training: {max_steps: 2, eval_rows: 1}";

pub fn text(world: &World, name: &str) -> String {
    world.path(name).to_string_lossy().into_owned()
}

/// A program in the world's folder.
pub fn program(world: &World, name: &str, args: &[&str]) -> Command {
    let mut command = launch(name);
    command
        .args(args)
        .current_dir(world.folder.path())
        .env("QLORA_URL", &world.address)
        .stdin(Stdio::null());
    command
}

pub fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut text)
        .expect("text");
    text
}

#[test]
fn paths_of_flags_start_here_and_paths_of_the_file_start_there() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(SHORT);
    let inner = world.path("configs");
    fs::create_dir_all(&inner).expect("a folder");
    let there = inner.join("there.yaml");
    fs::copy(&config, &there).expect("a configuration");
    // Neither file lies beside the configuration now.
    let bare = program(&world, "qlora-ctl", &["submit", "configs/there.yaml"])
        .output()
        .expect("qlora-ctl");
    let words = String::from_utf8_lossy(&bare.stderr).into_owned();
    assert_eq!(bare.status.code(), Some(3), "{words}");
    assert!(
        words.contains(
            "`data.train` (configs/there.yaml:4:8): there is no file configs/train.jsonl"
        ),
        "{words}"
    );
    let set = [
        "submit",
        "configs/there.yaml",
        "--set",
        "data.train=train.jsonl",
    ];
    let half = program(&world, "qlora-ctl", &set)
        .output()
        .expect("qlora-ctl");
    let words = String::from_utf8_lossy(&half.stderr).into_owned();
    assert!(
        words.contains("`data.eval` (configs/there.yaml:4:28)") && words.contains("remove the key"),
        "{words}"
    );
    let both = [&set[..], &["--set", "data.eval=eval.jsonl", "--watch"]].concat();
    let whole = program(&world, "qlora-ctl", &both)
        .output()
        .expect("qlora-ctl");
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );
    fs::copy(world.path("train.jsonl"), inner.join("train.jsonl")).expect("rows");
    let mixed = [
        "submit",
        "configs/there.yaml",
        "--set",
        "data.eval=eval.jsonl",
    ];
    assert!(
        program(&world, "qlora-ctl", &mixed)
            .status()
            .expect("qlora-ctl")
            .success()
    );
    let missing = [
        "submit",
        "configs/there.yaml",
        "--set",
        "data.train=nosuch.jsonl",
    ];
    let words = program(&world, "qlora-ctl", &missing)
        .output()
        .expect("qlora-ctl")
        .stderr;
    let words = String::from_utf8_lossy(&words).into_owned();
    assert!(
        words.contains("`data.train` (--set data.train): there is no file nosuch.jsonl"),
        "{words}"
    );
}

#[test]
fn a_job_that_waits_says_why_wherever_it_is_shown() {
    let mut world = World::new(&[]);
    let config = world.config(SHORT);
    let id = world
        .submit(&config, &["--set", "resources.labels.site=mars"])
        .to_string();
    let shown = world.ctl(&["show", &id]);
    assert!(
        shown.stdout.contains("no worker has registered"),
        "{}",
        shown.stdout
    );
    // While it is watched a worker comes that does not fit: nothing of the job changes, but the
    // reason does.
    let log = world.path("watch.log");
    let file = fs::File::create(&log).expect("a log");
    let mut watch = program(&world, "qlora-ctl", &["watch", &id])
        .stderr(file)
        .spawn()
        .expect("qlora-ctl");
    let read = |wanted: &str| {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains(wanted))
    };
    wait_until("the first reason", || read("no worker has registered"));
    let _worker = world.worker("earthling", &["--label", "site=earth"]);
    let words = wait_until("the second reason", || {
        read("earthling: needs label site=mars")
    });
    assert!(words.lines().count() <= 4, "a reason is said once: {words}");
    let shown = world.ctl(&["show", &id]);
    assert!(
        shown.stdout.contains("no worker is suitable") && shown.stdout.contains("earthling: needs"),
        "{}",
        shown.stdout
    );
    let job = &world.ctl(&["show", &id, "--json"]).json()[0];
    assert_eq!(job["waits"]["workers"][0]["fits"], false, "{job:#}");
    assert_eq!(world.ctl(&["cancel", &id, "--yes"]).code, 0);
    assert_eq!(watch.wait().expect("its end").code(), Some(7));
    assert_eq!(
        world.ctl(&["show", &id, "--json"]).json()[0]["waits"],
        Value::Null
    );
}

#[test]
fn a_coordinator_that_never_was_is_not_waited_for() {
    let world = World::new(&[]);
    let started = Instant::now();
    let answer = world.ctl(&["--coordinator", "127.0.0.1:1", "watch", "1"]);
    assert_eq!(answer.code, 4, "{}", answer.stderr);
    assert!(
        started.elapsed() < Duration::from_secs(20) && answer.stderr.contains("Q0401"),
        "{}",
        answer.stderr
    );
    let unknown = world.ctl(&["watch", "99"]);
    assert!(
        unknown.code == 5 && unknown.stderr.contains("99"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_token_file_that_cannot_be_used_is_named_by_every_program() {
    let world = World::new(&[]);
    fs::write(world.path("empty"), "\nsecond line\n").expect("a file");
    for (file, words) in [("nosuch", "cannot be read"), ("empty", "is empty")] {
        let path = text(&world, file);
        for (name, args) in [
            ("qlora-ctl", vec!["jobs", "--token-file", &path]),
            (
                "qlora-worker",
                vec!["--token-file", &path, "--state-dir", "w"],
            ),
            ("qlora-worker", vec!["doctor", "--token-file", &path]),
        ] {
            let output = program(&world, name, &args).output().expect("a program");
            let said = [output.stdout, output.stderr]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat();
            assert!(!output.status.success(), "{name} {args:?}");
            assert!(
                said.contains(&path) && said.contains(words) && !said.contains("HOST:PORT"),
                "{name} {args:?}: {said}"
            );
        }
    }
}

#[test]
fn doctor_tries_the_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    fs::write(&right, "a-secret-of-some-length\n").expect("a token");
    fs::write(&wrong, "another-secret-of-some-length\n").expect("a token");
    let (right, wrong) = (right.display().to_string(), wrong.display().to_string());
    let world = World::new(&["--token-file", &right]);
    let doctor = |world: &World, args: &[&str]| {
        let args = [&["doctor", "--json"], args].concat();
        let output = program(world, "qlora-worker", &args)
            .output()
            .expect("qlora-worker");
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = value["checks"].as_array().expect("checks").clone();
        let check = checks
            .into_iter()
            .find(|check| check["name"] == "coordinator")
            .expect("a check");
        (
            output.status.success(),
            check["ok"] == true,
            check["text"].as_str().expect("a text").to_owned(),
        )
    };
    let (good, ok, said) = doctor(&world, &["--token-file", &right]);
    assert!(good && ok && said.contains("takes the token"), "{said}");
    let (good, ok, said) = doctor(&world, &["--token-file", &wrong]);
    assert!(
        !good && !ok && said.contains("the token is not that of this coordinator"),
        "{said}"
    );
    // Whoever names a coordinator wants to know that it is not there.
    let (good, ok, said) = doctor(&world, &["--coordinator", "127.0.0.1:1"]);
    assert!(!good && !ok && said.contains("127.0.0.1:1"), "{said}");
    let (good, ok, said) = doctor(&world, &[]);
    assert!(
        good && ok && said.contains("takes the token"),
        "the same user finds it: {said}"
    );
}

#[test]
fn plan_takes_what_submit_takes_and_says_the_same_in_json() {
    let world = World::new(&[]);
    let path = text(&world, "plan.yaml");
    let yaml = "extends: cpu\nmodel: {base: smollm2-135m-instruct, quantization: gguf}\ndata: {train: t.jsonl}\n";
    fs::write(&path, yaml).expect("a configuration");
    assert_eq!(world.ctl(&["config", "put", "mine", &path]).code, 0);
    let of_file = world.ctl(&["plan", &path, "--json"]);
    for name in ["mine", "mine@1"] {
        let of_name = world.ctl(&["plan", name, "--json"]);
        assert_eq!(
            (of_name.code, &of_name.stdout),
            (0, &of_file.stdout),
            "{}",
            of_name.stderr
        );
    }
    let missing = world.ctl(&["plan", "mine@2"]);
    assert!(
        missing.code == 2 && missing.stderr.contains("mine@2"),
        "{} {}",
        missing.code,
        missing.stderr
    );
    let fits = world.ctl(&["plan", "mine", "--json", "--memory", "64"]);
    assert_eq!(
        (fits.code, &fits.json()[0]["fits"]),
        (0, &Value::Bool(true))
    );
    let tight = world.ctl(&["plan", "mine", "--json", "--memory", "0.01"]);
    assert_eq!(
        (tight.code, &tight.json()[0]["fits"]),
        (6, &Value::Bool(false))
    );
    for memory in ["NaN", "-1", "0", "inf", "many"] {
        assert_eq!(
            world
                .ctl(&["plan", "mine", &format!("--memory={memory}")])
                .code,
            2,
            "{memory}"
        );
    }
}

#[test]
fn a_configuration_that_cannot_be_stored_has_one_code_and_its_own_name() {
    let world = World::new(&[]);
    let path = text(&world, "dup.yaml");
    fs::write(
        &path,
        "model: {base: x}\ndata: {train: t}\ntraining: {seed: 1}\ntraining: {seed: 2}\n",
    )
    .expect("a file");
    let answer = world.ctl(&["config", "put", "x", &path]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    assert_eq!(
        answer.stderr.matches("error[").count(),
        1,
        "{}",
        answer.stderr
    );
    assert_eq!(
        answer.stderr.matches("help:").count(),
        1,
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("given twice in")
            && answer.stderr.contains("dup.yaml, lines 3 and 4"),
        "{}",
        answer.stderr
    );
}

#[test]
fn data_check_leaves_its_input_alone_and_takes_models_by_any_name() {
    let world = World::new(&[]);
    let rows = text(&world, "train.jsonl");
    let good = conversations(3);
    // The third row calls a function that is not there.
    let bad = good.lines().nth(2).expect("a row").replace(
        "\"name\":\"weather\",\"arguments\"",
        "\"name\":\"wether\",\"arguments\"",
    );
    fs::write(
        &rows,
        format!(
            "{}\n{bad}\n",
            good.lines().take(2).collect::<Vec<_>>().join("\n")
        ),
    )
    .expect("rows");
    let before = fs::read(&rows).expect("rows");
    for target in [
        rows.clone(),
        format!("{}/./train.jsonl", world.folder.path().display()),
    ] {
        let answer = world.ctl(&["data", "check", &rows, "--fix", &target]);
        assert!(
            answer.code == 2 && answer.stderr.contains("nothing was written"),
            "{} {}",
            answer.code,
            answer.stderr
        );
        assert_eq!(fs::read(&rows).expect("rows"), before);
    }
    let fixed = text(&world, "fixed.jsonl");
    let answer = world.ctl(&["data", "check", &rows, "--fix", &fixed, "--json"]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    let summary = answer.json().pop().expect("a summary");
    assert_eq!(
        (&summary["fixed"]["rows"], &summary["fixed"]["left_out"]),
        (&2.into(), &1.into()),
        "{summary:#}"
    );
    assert_eq!(world.ctl(&["data", "check", &fixed]).code, 0);
    // A model as a file is measured by its own tokenizer and template.
    let (folder, file) = (text(&world, "tiny"), text(&world, "tiny.gguf"));
    let made = program(
        &world,
        "qlora-worker",
        &["convert", "--model", &folder, "--out", &file],
    )
    .output()
    .expect("it");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let tokens = |model: &str| {
        let answer = world.ctl(&["data", "check", &fixed, "--model", model, "--json"]);
        answer
            .json()
            .pop()
            .unwrap_or_else(|| panic!("{}", answer.stderr))["tokens"]
            .clone()
    };
    for model in [&folder, &file] {
        let found = tokens(model);
        let number = |key: &str| found[key].as_u64().expect("a number");
        assert!(
            number("supervised") > 0 && number("total") > number("supervised"),
            "{model}: {found:#}"
        );
    }
    let unreadable = world.ctl(&["data", "check", &fixed, "--model", &fixed]);
    assert!(
        unreadable.code == 3 && unreadable.stderr.contains("fixed.jsonl"),
        "{}",
        unreadable.stderr
    );
    let empty = text(&world, "models");
    let away = world.ctl_with(
        &["data", "check", &fixed, "--model", "llama-3.1-8b-instruct"],
        &[("QLORA_MODEL_DIR", &empty)],
    );
    assert!(
        away.code == 3 && away.stderr.contains("Q0302") && away.stderr.contains("model fetch"),
        "{}",
        away.stderr
    );
    let unknown = world.ctl(&["data", "preview", &fixed, "--model", "no-such-model"]);
    assert!(
        unknown.code == 3 && unknown.stderr.contains("no-such-model"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_misspelled_template_is_refused_before_any_work() {
    let world = World::new(&[]);
    let (model, rows) = (text(&world, "tiny"), text(&world, "train.jsonl"));
    let config = world.config(SHORT);
    let answer = world.ctl(&[
        "submit",
        &config.to_string_lossy(),
        "--set",
        "data.template=chatml-tool",
    ]);
    assert!(
        answer.code == 3 && answer.stderr.contains("did you mean `chatml-tools`?"),
        "{}",
        answer.stderr
    );
    let ctl: [&[&str]; 2] = [&["data", "check", &rows], &["data", "preview", &rows]];
    for args in ctl {
        let answer = world.ctl(&[args, &["--model", &model, "--template", "TYPO"]].concat());
        // It may be the name of a template that the model has; this one has none of that name.
        assert!(
            answer.code == 3 && answer.stderr.contains("TYPO"),
            "{} {}",
            answer.code,
            answer.stderr
        );
    }
    let worker: [&[&str]; 2] = [&["generate", "--prompt", "x"], &["score", "--data", &rows]];
    for args in worker {
        let args = [args, &["--model", &model, "--template", "chatml_tools"]].concat();
        let output = program(&world, "qlora-worker", &args)
            .output()
            .expect("qlora-worker");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && words.contains("did you mean `chatml-tools`?"),
            "{words}"
        );
    }
}

#[test]
fn quickstart_refuses_a_folder_with_something_in_it_at_once() {
    let world = World::new(&[]);
    let used = text(&world, "used");
    fs::create_dir_all(&used).expect("a folder");
    fs::write(world.path("used/adapter"), "mine").expect("a file");
    let answer = world.ctl(&["quickstart", "--dir", &used]);
    assert!(
        answer.code == 2 && answer.stderr.contains("is not empty"),
        "{} {}",
        answer.code,
        answer.stderr
    );
    assert_eq!(
        fs::read_dir(&used).expect("a folder").count(),
        1,
        "nothing was put into it"
    );
}

#[test]
fn the_last_checkpoint_of_a_cancelled_job_gives_its_adapter() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world
        .config("training: {max_steps: 100000, checkpoint_every: 1, eval_every: 1, eval_rows: 1, keep_best: true}");
    let id = world.submit(&config, &[]);
    let early = |job: &Value| {
        job["artifacts"]
            .as_array()
            .is_some_and(|made| !made.is_empty())
    };
    world.wait(id, "a checkpoint", early);
    let id = id.to_string();
    let running = world.ctl(&["artifacts", "get", &id]);
    assert!(
        running.code == 2 && running.stderr.contains("no adapter yet"),
        "{}",
        running.stderr
    );
    assert_eq!(world.ctl(&["cancel", &id, "--yes"]).code, 0);
    let watched = world.ctl(&["watch", &id]);
    assert!(
        watched.code == 7 && watched.stderr.contains(&format!("artifacts get {id}")),
        "{}",
        watched.stderr
    );
    let folder = text(&world, "rescued");
    let got = world.ctl(&["artifacts", "get", &id, "--output", &folder]);
    assert_eq!(got.code, 0, "{}", got.stderr);
    assert!(
        got.stderr.contains("last checkpoint") && got.stdout.trim() == folder,
        "{} {}",
        got.stdout,
        got.stderr
    );
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    names.sort();
    let all = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "training_base.json",
        "training_template.json",
    ];
    assert_eq!(names, all, "the template of the training goes with it");
    let scored = [
        "score",
        "--model",
        &text(&world, "tiny"),
        "--adapter",
        &folder,
        "--data",
        "eval.jsonl",
        "--rows",
        "1",
    ];
    let output = program(&world, "qlora-worker", &scored)
        .output()
        .expect("qlora-worker");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let by_job = world.ctl(&["eval", &id, "--rows", "1"]);
    assert!(
        by_job.code == 0
            && by_job
                .stderr
                .contains("was cancelled before it made its adapter"),
        "{}",
        by_job.stderr
    );
    let second = text(&world, "second");
    let json = world
        .ctl(&["artifacts", "get", &id, "--output", &second, "--json"])
        .json()
        .remove(0);
    assert_eq!(
        (&json["from_checkpoint"], &json["job"]),
        (
            &Value::Bool(true),
            &id.parse::<u64>().expect("a number").into()
        )
    );
    let left: Vec<_> = fs::read_dir(world.folder.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with('.')),
        "{left:?}"
    );
}
