//! The life of jobs through the real programs.

use std::fs;

use qlora_tests::World;
use serde_json::Value;

const SHORT: &str = "training: {max_steps: 6, checkpoint_every: 2, micro_batch_size: 2}";

#[test]
fn a_job_trains_reports_and_leaves_an_adapter() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(SHORT);
    let id = world.submit(&config, &[]);
    let watched = world.ctl(&["watch", &id.to_string(), "--json"]);
    assert_eq!(watched.code, 0, "{}", watched.stderr);
    let job = watched.json().pop().expect("a last state");
    assert_eq!(job["state"], "succeeded");
    assert_eq!(
        (&job["step"], &job["steps"]),
        (&Value::from(6), &Value::from(6))
    );
    assert!(
        job["first_eval"].as_f64().expect("before") > 0.0
            && job["eval"].as_f64().expect("after") > 0.0
    );
    assert_eq!(job["samples"].as_array().map(Vec::len), Some(2));
    assert_eq!(job["config"]["lora"]["r"], 16);

    let metrics = world.ctl(&["metrics", &id.to_string(), "--json"]).json();
    let losses: Vec<u64> = metrics
        .iter()
        .filter(|m| m["loss"].is_f64())
        .filter_map(|m| m["step"].as_u64())
        .collect();
    assert_eq!(losses, [1, 2, 3, 4, 5, 6]);
    let logs = world.ctl(&["logs", &id.to_string()]);
    assert!(logs.stdout.contains("step 6/6"), "{}", logs.stdout);

    let folder = world.path("adapter");
    let got = world.ctl(&[
        "artifacts",
        "get",
        &id.to_string(),
        "--output",
        &folder.to_string_lossy(),
    ]);
    assert_eq!(got.code, 0, "{}", got.stderr);
    let config: Value = serde_json::from_str(
        &fs::read_to_string(folder.join("adapter_config.json")).expect("a file"),
    )
    .expect("JSON");
    assert_eq!(
        (config["peft_type"].as_str(), config["r"].as_u64()),
        (Some("LORA"), Some(16))
    );
    let tensors = candle_core::safetensors::load(
        folder.join("adapter_model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .expect("tensors");
    assert_eq!(tensors.len(), 2 * 2 * 4);
    let b = &tensors["base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"];
    assert!(
        b.abs()
            .and_then(|t| t.sum_all()?.to_scalar::<f32>())
            .expect("a sum")
            > 0.0,
        "B was never trained"
    );
}

#[test]
fn the_same_key_gives_the_same_job() {
    let world = World::new(&[]);
    let config = world.config(SHORT);
    let first = world.submit(&config, &["--idempotency-key", "k"]);
    assert_eq!(world.submit(&config, &["--idempotency-key", "k"]), first);
    let other = world.ctl(&[
        "submit",
        &config.to_string_lossy(),
        "--idempotency-key",
        "k",
        "--set",
        "lora.r=4",
    ]);
    assert_eq!(other.code, 5, "{}", other.stderr);
    assert_ne!(world.submit(&config, &[]), first);
}

#[test]
fn configurations_are_kept_in_revisions_and_can_be_submitted_by_name() {
    let world = World::new(&[]);
    let path = world.config(SHORT);
    let text = fs::read_to_string(&path).expect("a file");
    let absolute = text
        .replace("train.jsonl", &world.path("train.jsonl").to_string_lossy())
        .replace("eval: eval.jsonl, ", "");
    fs::write(&path, &absolute).expect("a file");
    let put = |text: &str| {
        fs::write(&path, text).expect("a file");
        world
            .ctl(&["config", "put", "mine", &path.to_string_lossy(), "--json"])
            .json()
            .remove(0)["revision"]
            .clone()
    };
    assert_eq!(put(&absolute), 1);
    assert_eq!(put(&absolute), 1);
    assert_eq!(put(&format!("{absolute}# more\n")), 2);
    assert_eq!(
        world
            .ctl(&["config", "get", "mine", "--revision", "1"])
            .stdout,
        absolute
    );
    assert_eq!(world.ctl(&["config", "list", "--json"]).json().len(), 1);
    let twice = world.ctl(&["config", "get", "mine@2", "--revision", "1"]);
    assert_eq!(twice.code, 2, "{}", twice.stderr);
    for form in [&[][..], &["--json"]] {
        let unknown = world.ctl(&[&["config", "list", "yours"][..], form].concat());
        assert_eq!(unknown.code, 5, "{}", unknown.stderr);
    }
    let submitted = world.ctl(&["submit", "mine@1", "--json"]);
    assert_eq!(submitted.code, 0, "{}", submitted.stderr);
    let bad = world.ctl(&["config", "put", "../x", &path.to_string_lossy()]);
    assert_eq!(bad.code, 3, "{}", bad.stderr);
}

#[test]
fn a_waiting_job_says_why_and_can_be_cancelled() {
    let mut world = World::new(&[]);
    let config = world.config(SHORT);
    let id = world.submit(&config, &["--set", "resources.labels={site: mars}"]);
    let alone = world.ctl(&["explain", &id.to_string()]);
    assert!(
        alone.stdout.contains("no worker has registered"),
        "{}",
        alone.stdout
    );
    let worker = world.worker("a", &["--label", "site=earth"]);
    qlora_tests::wait_until("the worker", || {
        Some(()).filter(|()| worker.log().contains("registered"))
    });
    let why = world.ctl(&["explain", &id.to_string()]);
    assert!(
        why.stdout
            .contains("needs label site=mars, a has site=earth"),
        "{}",
        why.stdout
    );
    assert_eq!(world.ctl(&["cancel", &id.to_string()]).code, 2);
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    assert_eq!(world.job(id)["state"], "cancelled");
    let watched = world.ctl(&["watch", &id.to_string()]);
    assert_eq!(watched.code, 7, "{}", watched.stderr);
}

#[test]
fn a_running_job_that_is_cancelled_saves_and_stops() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 100000, checkpoint_every: 0}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    let job = world.ended(id);
    assert_eq!(job["state"], "cancelled");
    assert_eq!(job["artifacts"][0]["kind"], "checkpoint");
}

#[test]
fn an_adapter_and_its_base_are_scored_side_by_side_on_a_worker() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 3, learning_rate: 0.01}");
    let trained = world.submit(&config, &[]);
    let losses = |job: &Value| (job["first_eval"].as_f64(), job["eval"].as_f64());
    let (before, after) = losses(&world.ended(trained));
    let rows = world
        .ctl(&["eval", &trained.to_string(), "--compare", "--json"])
        .json();
    let found: Vec<&Value> = rows.iter().filter(|line| line["of"] == trained).collect();
    assert_eq!(found.len(), 2, "{rows:?}");
    for (line, (what, loss)) in found.iter().zip([("base", before), ("adapter", after)]) {
        let scores = &line["scores"];
        assert_eq!(
            (line["scored"].as_str(), scores["calls"]["rows"].is_u64()),
            (Some(what), true)
        );
        let (ours, theirs) = (
            scores["loss"].as_f64().expect("a loss"),
            loss.expect("an evaluation"),
        );
        assert!(
            (ours - theirs).abs() < 1e-6 && scores["perplexity"] == ours.exp(),
            "{what}: {ours} and {theirs}"
        );
        let job = world.job(line["job"].as_u64().expect("a job"));
        assert_eq!(
            (job["state"].as_str(), &job["scores"]),
            (Some("succeeded"), scores)
        );
    }
    let few = world.ctl(&["eval", &trained.to_string(), "--rows", "1", "--base"]);
    assert!(
        few.stdout.contains("right functions") && few.stdout.contains("perplexity"),
        "{}",
        few.stdout
    );
    let unknown = world.ctl(&["eval", "999"]);
    assert!(
        unknown.code == 5 && unknown.stderr.contains("999"),
        "{} {}",
        unknown.code,
        unknown.stderr
    );
    // A job that made no adapter has none to score.
    let scored = found[0]["job"].to_string();
    assert!(
        world
            .ctl(&["eval", &scored])
            .stderr
            .contains("has no artifact adapter")
    );
}
