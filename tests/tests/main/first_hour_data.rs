//! What `submit` does with the rows, the model and the paths that a configuration names, before
//! anything is sent.

use std::fs;

use qlora_tests::{World, conversations, wait_until};
use serde_json::Value;

const SHORT: &str = "training: {max_steps: 2, eval_rows: 1}";

fn path(world: &World, name: &str) -> String {
    world.path(name).to_string_lossy().into_owned()
}

/// Rows of which some have faults that only the check of their meaning finds.
fn faulty() -> (String, Vec<(usize, &'static str)>) {
    let rows = conversations(40);
    let mut lines: Vec<String> = rows.lines().map(str::to_owned).collect();
    lines[2] = lines[2].replace(
        "\"name\":\"weather\",\"arguments\"",
        "\"name\":\"wether\",\"arguments\"",
    );
    lines[4] = lines[4].replace("\"days\":5}", "\"days\":21}");
    lines[9] = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"first\"}]}".into();
    lines[30] = "not JSON".into();
    let found = vec![
        (3, "`wether` is not among"),
        (5, "above the maximum 14"),
        (10, "speaks before the user"),
        (31, "not JSON"),
    ];
    (lines.join("\n"), found)
}

#[test]
fn submit_refuses_the_rows_that_data_check_finds_faulty_with_the_same_findings() {
    let world = World::new(&[]);
    let config = world.config(SHORT).display().to_string();
    let (rows, found) = faulty();
    for role in ["train", "eval"] {
        fs::write(world.path("bad.jsonl"), &rows).expect("rows");
        let set = format!("data.{role}={}", path(&world, "bad.jsonl"));
        let answer = world.ctl(&["submit", &config, "--set", &set]);
        assert_eq!(answer.code, 3, "{}", answer.stderr);
        let checked = world
            .ctl(&["data", "check", &path(&world, "bad.jsonl"), "--most", "100"])
            .stdout;
        for (line, words) in &found {
            let place = format!("bad.jsonl:{line}: ");
            let finding = checked
                .lines()
                .find(|said| said.contains(&place) && said.contains(words))
                .expect("a finding");
            assert!(
                answer.stderr.contains(finding),
                "{finding}: {}",
                answer.stderr
            );
        }
        assert!(
            answer.stderr.contains("error[Q0203]: 4 of 40 rows"),
            "{}",
            answer.stderr
        );
        assert!(answer.stderr.contains("--fix"), "{}", answer.stderr);
        let json = world.ctl(&["submit", &config, "--set", &set, "--json"]);
        let value: Value = serde_json::from_str(json.stderr.lines().last().unwrap_or_default())
            .expect("one object");
        let errors = value["errors"].as_array().expect("errors");
        assert_eq!(errors.len(), 1 + found.len(), "{value:#}");
        assert!(
            errors[1]["place"]
                .as_str()
                .is_some_and(|place| place.ends_with("bad.jsonl:3")),
            "{value:#}"
        );
    }
    assert!(
        world.ctl(&["jobs", "--json"]).json().is_empty(),
        "nothing was sent"
    );
}

#[test]
fn rows_that_are_refused_for_their_length_are_told_so() {
    let world = World::new(&[]);
    let config = world.config(SHORT).display().to_string();
    let answer = world.ctl(&[
        "submit",
        &config,
        "--set",
        "data.max_seq_len=8",
        "--set",
        "data.too_long=error",
    ]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    for words in [
        "error[Q0203]",
        "more tokens than data.max_seq_len 8",
        "train.jsonl:1: it has ",
        "help: raise data.max_seq_len",
    ] {
        assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
    }
    assert!(!answer.stderr.contains("rendered"), "{}", answer.stderr);
}

#[test]
fn keys_that_are_not_read_are_told_by_submit_and_by_the_log_of_the_job_with_their_counts() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(SHORT);
    let marked = |(i, row): (usize, &str)| {
        if i < 7 {
            row.replacen('{', "{\"sorce\": \"me\", ", 1)
        } else {
            row.into()
        }
    };
    let rows: Vec<String> = conversations(40).lines().enumerate().map(marked).collect();
    fs::write(world.path("train.jsonl"), rows.join("\n")).expect("rows");
    let answer = world.ctl(&[
        "submit",
        &config.to_string_lossy(),
        "--set",
        "resources.device=cpu",
    ]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(
        answer
            .stderr
            .contains("warning[Q0205]: keys that are not read: `sorce` in 7 rows"),
        "{}",
        answer.stderr
    );
    let id: u64 = answer.stdout.trim().parse().expect("a number");
    assert_eq!(world.ended(id)["state"], "succeeded");
    let log = world.ctl(&["logs", &id.to_string()]).stdout;
    assert_eq!(
        log.matches("keys of training rows that are not read: `sorce` in 7 of 40 rows")
            .count(),
        1,
        "{log}"
    );
}

#[test]
fn a_model_that_nothing_has_is_refused_by_submit_and_a_relative_path_is_sent_whole() {
    let world = World::new(&[]);
    let config = world.config(SHORT).display().to_string();
    for (base, words) in [
        ("no-such-model", "known are"),
        (
            "smollm2-135m-instruc",
            "did you mean `smollm2-135m-instruct`?",
        ),
        ("./nosuch", "there is no file or folder ./nosuch"),
        ("nosuch.gguf", "there is no file or folder nosuch.gguf"),
    ] {
        for command in ["submit", "plan"] {
            let answer = world.ctl(&[command, &config, "--set", &format!("model.base={base}")]);
            assert_eq!(answer.code, 3, "{base}: {}", answer.stderr);
            assert!(
                answer.stderr.contains("error[Q0302]") && answer.stderr.contains(words),
                "{}",
                answer.stderr
            );
        }
    }
    assert!(world.ctl(&["jobs", "--json"]).json().is_empty());
    let text = fs::read_to_string(&config)
        .expect("a file")
        .replace(&path(&world, "tiny"), "./tiny");
    fs::write(&config, text).expect("a file");
    let id = world.submit(&world.path("config.yaml"), &[]);
    let whole = world.path("tiny").canonicalize().expect("a folder");
    assert_eq!(
        world.job(id)["config"]["model"]["base"],
        whole.to_string_lossy().as_ref()
    );
}

#[test]
fn a_stored_configuration_has_whole_paths_wherever_it_is_used() {
    let world = World::new(&[]);
    let config = world.config(SHORT);
    let text = fs::read_to_string(&config)
        .expect("a file")
        .replace(&path(&world, "tiny"), "tiny");
    fs::write(&config, text).expect("a file");
    let put = world.ctl(&["config", "put", "mine", &config.to_string_lossy()]);
    assert_eq!(put.code, 0, "{}", put.stderr);
    let stored = world.ctl(&["config", "get", "mine"]).stdout;
    for name in ["tiny", "train.jsonl", "eval.jsonl"] {
        let whole = world
            .path(name)
            .canonicalize()
            .expect("a path")
            .display()
            .to_string();
        assert!(
            stored.contains(&whole) && put.stderr.contains(&whole),
            "{name}: {stored}\n{}",
            put.stderr
        );
    }
    // This command does not run in the folder of the file.
    let submitted = world.ctl(&["submit", "mine", "--json"]);
    assert_eq!(submitted.code, 0, "{}", submitted.stderr);
    // What an older program stored has no folder.
    let old = qlora_proto::PutConfigRequest {
        name: "old".into(),
        yaml: "model: {base: smollm2-135m-instruct}\ndata: {train: train.jsonl}\n".into(),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let file = world.path("state/token");
    runtime.block_on(async {
        let mut client = qlora_client::Client::new(&world.address, Some(&file)).expect("a client");
        client.configs.put_config(old).await.expect("a revision");
    });
    let refused = world.ctl(&["submit", "old"]);
    assert!(
        refused.code == 3 && refused.stderr.contains("`data.train`"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("lies in no folder") && refused.stderr.contains("config put"),
        "{}",
        refused.stderr
    );
    let set = format!("data.train={}", path(&world, "train.jsonl"));
    // That model's own template cannot render the calls of these rows.
    let given = world.ctl(&[
        "submit",
        "old",
        "--set",
        &set,
        "--set",
        "data.template=chatml-tools",
    ]);
    assert_eq!(given.code, 0, "{}", given.stderr);
}

#[test]
fn plan_reads_the_shape_of_a_folder_and_of_a_file() {
    let world = World::new(&[]);
    let config = world.config(SHORT).display().to_string();
    let made = qlora_tests::launch("qlora-worker")
        .args([
            "convert",
            "--model",
            &path(&world, "tiny"),
            "--out",
            &path(&world, "tiny.gguf"),
        ])
        .output()
        .expect("qlora-worker");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    // A plan needs sizes, not weights.
    fs::create_dir(world.path("sizes")).expect("a folder");
    fs::copy(
        world.path("tiny/config.json"),
        world.path("sizes/config.json"),
    )
    .expect("a file");
    for model in ["tiny", "tiny.gguf", "sizes"] {
        let set = format!("model.base={}", path(&world, model));
        let answer = world.ctl(&["plan", &config, "--set", &set, "--memory", "8", "--json"]);
        assert_eq!(answer.code, 0, "{model}: {}", answer.stderr);
        let plan = answer.json().remove(0);
        assert!(
            plan["fits"] == true && plan["total"].as_u64().is_some_and(|total| total > 100_000),
            "{plan:#}"
        );
    }
    let tight = world.ctl(&["plan", &config, "--memory", "0.0001"]);
    assert_eq!(tight.code, 6, "{}", tight.stderr);
    let away = world.ctl_with(
        &["plan", &config, "--set", "model.base=me/mine"],
        &[("QLORA_MODEL_DIR", &path(&world, "models"))],
    );
    assert!(
        away.code == 3 && away.stderr.contains("model fetch"),
        "{}",
        away.stderr
    );
}

#[test]
fn jobs_that_wait_say_why_in_every_list() {
    let world = World::new(&[]);
    let config = world.config(SHORT);
    let id = world.submit(&config, &["--set", "resources.labels.site=mars"]);
    let listed = wait_until("the job", || {
        world.ctl(&["jobs", "--json"]).json().into_iter().next()
    });
    assert_eq!(listed["job"], id);
    assert!(
        listed["waits"]["summary"]
            .as_str()
            .is_some_and(|why| why.contains("no worker has registered")),
        "{listed:#}"
    );
    let submitted = world
        .ctl(&["submit", &config.to_string_lossy(), "--json"])
        .json()
        .remove(0);
    assert!(
        submitted["waits"]["summary"]
            .as_str()
            .is_some_and(|why| !why.is_empty()),
        "{submitted:#}"
    );
}

/// A worker takes jobs while they are shown: no reason that a job runs stands beside the state that
/// it waits.
#[test]
fn a_reason_to_wait_is_given_of_jobs_that_wait_and_of_no_others() {
    let mut world = World::new(&[]);
    let worker = world.worker("a", &[]);
    wait_until("the worker", || {
        Some(()).filter(|()| worker.log().contains("registered"))
    });
    let config = world
        .config("training: {max_steps: 1, eval_every: 0}")
        .display()
        .to_string();
    let set = [
        "--set",
        "resources.device=cpu",
        "--set",
        "data.eval=null",
        "--json",
    ];
    for _ in 0..12 {
        let submitted = world.ctl(&[&["submit", &config], &set[..]].concat());
        assert_eq!(submitted.code, 0, "{}", submitted.stderr);
        for job in submitted
            .json()
            .into_iter()
            .chain(world.ctl(&["jobs", "--json"]).json())
        {
            let summary = job["waits"]["summary"].as_str();
            assert_eq!(job["state"] == "queued", summary.is_some(), "{job:#}");
            assert!(
                summary.is_none_or(|why| !why.contains(" runs on ")),
                "{job:#}"
            );
        }
    }
}
