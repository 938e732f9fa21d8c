//! What bad input gets: a clear error that names the thing and the way out, and the right exit
//! code.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_tests::{World, conversations, wait_until};

const SHORT: &str = "training: {max_steps: 2}";

#[test]
fn an_unreachable_coordinator_is_named() {
    let world = World::new(&[]);
    let answer = world.ctl(&["--coordinator", "127.0.0.1:1", "jobs"]);
    assert_eq!(answer.code, 4);
    assert!(
        answer.stderr.contains("Q0401")
            && answer.stderr.contains("127.0.0.1:1")
            && answer.stderr.contains("help:"),
        "{}",
        answer.stderr
    );
    let answer = world.ctl(&["--coordinator", "not an address", "jobs"]);
    assert_eq!(answer.code, 2, "{}", answer.stderr);
}

#[test]
fn bad_configurations_and_rows_are_refused_before_anything_is_sent() {
    let world = World::new(&[]);
    let config = world.config("lora: {rnk: 8}");
    let answer = world.ctl(&["submit", &config.to_string_lossy()]);
    assert_eq!(answer.code, 3);
    assert!(
        answer.stderr.contains("unknown key `lora.rnk`")
            && answer.stderr.contains("did you mean `lora.r`?"),
        "{}",
        answer.stderr
    );

    let config = world.config(SHORT);
    fs::write(
        world.path("train.jsonl"),
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n",
    )
    .expect("rows");
    let answer = world.ctl(&["submit", &config.to_string_lossy()]);
    assert_eq!(answer.code, 3);
    assert!(
        answer.stderr.contains("train.jsonl:1") && answer.stderr.contains("assistant"),
        "{}",
        answer.stderr
    );
    let checked = world.ctl(&[
        "data",
        "check",
        &world.path("train.jsonl").to_string_lossy(),
    ]);
    assert_eq!(checked.code, 3);

    fs::write(world.path("train.jsonl"), "").expect("rows");
    assert_eq!(world.ctl(&["submit", &config.to_string_lossy()]).code, 3);
    fs::remove_file(world.path("train.jsonl")).expect("rows");
    let answer = world.ctl(&["submit", &config.to_string_lossy()]);
    assert!(
        answer.code == 3 && answer.stderr.contains("train.jsonl"),
        "{}",
        answer.stderr
    );
    assert!(world.ctl(&["jobs", "--json"]).json().is_empty());
}

#[test]
fn data_check_holds_calls_against_their_schema() {
    let world = World::new(&[]);
    let text = fs::read_to_string(world.path("train.jsonl")).expect("rows");
    let row = text.lines().next().expect("a row");
    let broken = [
        row.replace("\"days\":1}", "\"days\":21}"),
        row.replace("\"days\":1}", "\"days\":14}"),
        row.replace("\"days\":1}", "\"days\":\"x\"}"),
        row.replace(",\"days\":1}", "}"),
        row.replace(
            "\"name\":\"weather\",\"arguments\"",
            "\"name\":\"wether\",\"arguments\"",
        ),
    ];
    let path = world.path("bad.jsonl");
    fs::write(&path, broken.join("\n")).expect("rows");
    let answer = world.ctl(&["data", "check", &path.to_string_lossy()]);
    assert_eq!(answer.code, 3);
    let lines: Vec<&str> = answer.stdout.lines().collect();
    assert!(
        lines[0].ends_with(
            "bad.jsonl:1: message 1 tool_call 0: parameter 'days' is 21, above the maximum 14"
        ),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].contains(":3:") && lines[1].contains("'days' is \"x\", of the wrong type"),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].contains(":4:") && lines[2].contains("parameter 'days' is missing"),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].contains(":5:") && lines[3].contains("`wether` is not among"),
        "{}",
        lines[3]
    );
    assert_eq!(lines.len(), 4, "{}", answer.stdout);
}

/// A copy of the model `tiny` under another name.
pub fn copy_of_tiny(world: &World, name: &str) -> PathBuf {
    let folder = world.path(name);
    fs::create_dir_all(&folder).expect("a folder");
    for entry in fs::read_dir(world.path("tiny")).expect("a model") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("a copy");
    }
    folder
}

/// What breaks behind the back of `submit` fails the job, at once and with its reason.
#[test]
fn broken_models_fail_the_job_without_a_second_try() {
    let mut world = World::new(&[]);
    let config = world.config(SHORT);
    let submitted = |model: &Path| {
        world.submit(
            &config,
            &["--set", &format!("model.base={}", model.display())],
        )
    };
    let (empty, cut, gguf) = (
        copy_of_tiny(&world, "empty"),
        copy_of_tiny(&world, "half"),
        world.path("cut.gguf"),
    );
    let args = [
        "convert",
        "--model",
        &cut.to_string_lossy(),
        "--out",
        &gguf.to_string_lossy(),
    ];
    assert!(crate::formats::worker(&args).status.success());
    let jobs = [
        (
            submitted(&empty),
            &["neither model.safetensors nor model.safetensors.index.json"][..],
        ),
        (submitted(&cut), &["cut off", "download the file again"]),
        (submitted(&gguf), &["cut off"]),
    ];
    fs::remove_file(empty.join("model.safetensors")).expect("no weights");
    let weights = fs::read(cut.join("model.safetensors")).expect("weights");
    fs::write(cut.join("model.safetensors"), &weights[..weights.len() / 2]).expect("half of them");
    fs::write(&gguf, b"GGUF\x03\0\0\0").expect("a file");
    let _worker = world.worker("a", &[]);
    for (id, words) in jobs {
        let job = world.ended(id);
        assert_eq!(job["state"], "failed", "{job:#}");
        assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
        let reason = job["reason"].as_str().expect("a reason");
        assert!(words.iter().all(|w| reason.contains(w)), "{reason}");
    }
}

#[test]
fn rows_that_do_not_fit_the_context_fail_the_job_with_the_way_out() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(SHORT);
    // All rows of a short file are looked at before it is sent.
    let refused = world.ctl(&[
        "submit",
        &config.to_string_lossy(),
        "--set",
        "data.max_seq_len=8",
    ]);
    assert!(
        refused.code == 3 && refused.stderr.contains("of 40 rows 40 have more than"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("raise data.max_seq_len"),
        "{}",
        refused.stderr
    );
    fs::write(world.path("train.jsonl"), conversations(100)).expect("rows");
    let id = world.submit(
        &config,
        &["--set", "data.max_seq_len=8", "--set", "data.eval=null"],
    );
    let job = world.ended(id);
    let reason = job["reason"].as_str().expect("a reason");
    assert!(
        job["state"] == "failed" && reason.contains("raise data.max_seq_len"),
        "{reason}"
    );
}

#[test]
fn a_second_worker_of_the_same_name_or_state_is_refused() {
    let mut world = World::new(&[]);
    let first = world.worker("a", &[]);
    wait_until("the first worker", || {
        Some(()).filter(|()| first.log().contains("registered"))
    });
    let mut same_name = world.worker("a", &[]);
    assert_eq!(same_name.exit_code(), Some(5));
    assert!(
        same_name.log().contains("another machine") && same_name.log().contains("--name"),
        "{}",
        same_name.log()
    );
    let state = world.path("worker-1");
    let mut same_state = world.worker_in("b", &state, &[]);
    assert_eq!(same_state.exit_code(), Some(5));
    assert!(
        same_state.log().contains("state folder"),
        "{}",
        same_state.log()
    );
}

#[test]
fn a_token_is_asked_of_everyone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "a-secret-of-some-length\n").expect("a token");
    let mut world = World::new(&["--token-file", &file.to_string_lossy()]);
    for token in ["wrong", "a-secret-of-some-lengtH"] {
        let answer = world.ctl_with(&["jobs"], &[("QLORA_TOKEN", token)]);
        assert_eq!(answer.code, 5, "{token}: {}", answer.stderr);
        assert!(answer.stderr.contains("token"), "{}", answer.stderr);
    }
    assert_eq!(
        world
            .ctl_with(&["jobs"], &[("QLORA_TOKEN", "a-secret-of-some-length")])
            .code,
        0
    );
    // On this machine the token is found; whoever brings another one is not let in.
    let other = folder.path().join("other");
    fs::write(&other, "another-secret-of-length\n").expect("a token");
    let mut without = world.worker("a", &["--token-file", &other.to_string_lossy()]);
    assert_eq!(without.exit_code(), Some(5), "{}", without.log());
    let with = world.worker("b", &["--token-file", &file.to_string_lossy()]);
    wait_until("the worker with the token", || {
        Some(()).filter(|()| with.log().contains("registered"))
    });
}

#[test]
fn json_carries_errors_too() {
    let world = World::new(&[]);
    let answer = world.ctl(&["show", "77", "--json"]);
    assert_eq!(answer.code, 5);
    let error: serde_json::Value = serde_json::from_str(answer.stderr.trim()).expect("JSON");
    assert!(
        error["error"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("77")),
        "{error}"
    );
}

#[test]
fn random_weights_are_made_of_known_models_only() {
    let output = crate::formats::worker(&["bench", "--model", "llama-9", "--random-weights"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("no model of the catalogue") && said.contains("llama-3.1-8b-instruct"),
        "{said}"
    );
}
