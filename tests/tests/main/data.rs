//! `qlora-ctl data`: a whole file looked at, mended and shown; and a folder of shards trained on.

use std::fs;

use qlora_tests::{World, conversations, tiny_model};
use serde_json::Value;

#[test]
fn a_check_tells_duplicates_leaks_and_lengths_and_mends_what_is_mechanical() {
    let world = World::new(&[]);
    let path = |name: &str| world.path(name).to_string_lossy().into_owned();
    let rows = conversations(6);
    let lines: Vec<&str> = rows.lines().collect();
    fs::write(
        world.path("rows.jsonl"),
        format!("{rows}{}\nnot JSON\n", lines[0]),
    )
    .expect("rows");
    fs::write(world.path("held.jsonl"), lines[5]).expect("rows");
    let model = tiny_model(&world.path("")).to_string_lossy().into_owned();
    let (rows, held, fixed) = (path("rows.jsonl"), path("held.jsonl"), path("fixed.jsonl"));
    let answer = world.ctl(&[
        "data",
        "check",
        &rows,
        "--against",
        &held,
        "--model",
        &model,
        "--max-seq-len",
        "8",
        "--fix",
        &fixed,
        "--json",
    ]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    let said = answer.json();
    let findings: Vec<(u64, &str)> = said
        .iter()
        .filter_map(|o| Some((o["line"].as_u64()?, o["finding"].as_str()?)))
        .collect();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert_eq!(
        findings[0],
        (6, format!("the same question stands at {held}:1").as_str())
    );
    assert_eq!(
        findings[1],
        (7, format!("the same row as {rows}:1").as_str())
    );
    assert!(findings[2].0 == 8 && findings[2].1.starts_with("the row is not JSON"));
    let summary = said.last().expect("a summary");
    let number = |key: &str| summary[key].as_u64().expect(key);
    assert_eq!(
        (
            number("rows"),
            number("bad_rows"),
            number("duplicates"),
            number("leaked")
        ),
        (8, 3, 1, 1)
    );
    assert_eq!(summary["tokens"]["above_limit"], 7);
    // Of eight rows one asks what is held out, one repeats another, and one is no row.
    let kept = fs::read_to_string(&fixed).expect("rows");
    assert_eq!(kept.lines().count(), 5);
    let again = world.ctl(&["data", "check", &fixed, "--json"]);
    assert_eq!(again.code, 0, "{}", again.stdout);
}

#[test]
fn a_preview_sets_off_what_is_trained_on() {
    let world = World::new(&[]);
    let model = tiny_model(&world.path("")).to_string_lossy().into_owned();
    fs::write(world.path("rows.jsonl"), conversations(2)).expect("rows");
    let rows = world.path("rows.jsonl").to_string_lossy().into_owned();
    let answer = world.ctl(&[
        "data", "preview", &rows, "--model", &model, "--row", "2", "--json",
    ]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let shown: &Value = &answer.json()[0];
    let trained: Vec<&str> = shown["parts"]
        .as_array()
        .expect("parts")
        .iter()
        .filter(|part| part["trained"] == true)
        .map(|part| part["text"].as_str().expect("text"))
        .collect();
    assert_eq!(trained.len(), 1);
    assert!(
        trained[0].contains("Rome") && trained[0].contains("weather"),
        "{trained:?}"
    );
    let answer = world.ctl(&["data", "preview", &rows, "--model", &model, "--row", "3"]);
    assert!(
        answer.code == 3
            && answer.stderr.contains("there is no row 3")
            && answer.stderr.contains("it has 2 rows"),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_folder_of_shards_is_trained_on() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    fs::create_dir_all(world.path("shards")).expect("a folder");
    let rows: Vec<String> = conversations(4).lines().map(str::to_owned).collect();
    fs::write(
        world.path("shards/a.json"),
        format!("[{}]", rows[..2].join(",")),
    )
    .expect("rows");
    let zstd = zstd::encode_all(rows[2..].join("\n").as_bytes(), 3).expect("bytes");
    fs::write(world.path("shards/b.jsonl.zst"), zstd).expect("rows");
    let config = world.config("training: {max_steps: 2, eval_rows: 2}");
    let shards = format!("data.train={}", world.path("shards").display());
    let id = world.submit(&config, &["--set", &shards]);
    assert_eq!(world.ended(id)["state"], "succeeded");
}
