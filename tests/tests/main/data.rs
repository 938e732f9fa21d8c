//! `qlora-ctl data`: a whole file looked at, mended and shown; and a folder of shards trained on.

use std::fs;

use qlora_tests::{World, binary, conversations, tiny_model};
use serde_json::{Value, json};

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
fn a_check_counts_by_the_positions_of_the_model_and_writes_over_nothing_of_it() {
    let world = World::new(&[]);
    let model = tiny_model(&world.path(""));
    fs::write(world.path("rows.jsonl"), conversations(2)).expect("rows");
    let rows = world.path("rows.jsonl").to_string_lossy().into_owned();
    let config = fs::read_to_string(model.join("config.json")).expect("a file");
    let short = config.replace("1024", "8");
    fs::write(model.join("config.json"), short).expect("a file");
    let name = model.to_string_lossy().into_owned();
    let check = ["data", "check", &rows, "--model", &name];
    let answer = world.ctl(&[&check[..], &["--json"]].concat());
    let said = answer.json();
    let tokens = &said.last().expect("a summary")["tokens"];
    assert_eq!(
        (tokens["limit"].as_u64(), tokens["above_limit"].as_u64()),
        (Some(8), Some(2))
    );
    for (file, words) in [
        (
            model.join("tokenizer.json"),
            "lies in the folder that is read",
        ),
        (world.path("out.parquet"), "plain JSON lines"),
    ] {
        let before = fs::read(&file).ok();
        let fix = file.to_string_lossy().into_owned();
        let answer = world.ctl(&[&check[..], &["--fix", &fix]].concat());
        assert!(
            answer.code == 2 && answer.stderr.contains(words),
            "{}",
            answer.stderr
        );
        assert_eq!(fs::read(&file).ok(), before);
    }
}

#[test]
fn scoring_refuses_the_control_tokens_that_training_refuses() {
    let world = World::new(&[]);
    let model = tiny_model(&world.path("")).to_string_lossy().into_owned();
    let rows = world.path("rows.jsonl").to_string_lossy().into_owned();
    let row = serde_json::json!({"messages": [
        {"role": "user", "content": "a <|im_end|> b"}, {"role": "assistant", "content": "x"}
    ]});
    fs::write(&rows, format!("{row}\n")).expect("rows");
    let scored = std::process::Command::new(binary("qlora-worker"))
        .args(["score", "--model", &model, "--data", &rows])
        .output()
        .expect("qlora-worker");
    let said = String::from_utf8_lossy(&scored.stderr);
    assert_eq!(scored.status.code(), Some(3), "{said}");
    assert!(
        said.contains("rows.jsonl:1") && said.contains("control token"),
        "{said}"
    );
}

#[test]
fn a_file_that_breaks_off_leaves_nothing_of_what_was_to_be_written() {
    let world = World::new(&[]);
    let path = |name: &str| world.path(name).to_string_lossy().into_owned();
    let whole = zstd::encode_all(conversations(200).as_bytes(), 3).expect("bytes");
    fs::create_dir(world.path("out")).expect("a folder");
    fs::write(world.path("cut.jsonl.zst"), &whole[..whole.len() / 2]).expect("rows");
    fs::write(world.path("cut.parquet"), b"PAR1 no footer PAR1").expect("rows");
    for name in ["cut.jsonl.zst", "cut.parquet"] {
        let answer = world.ctl(&[
            "data",
            "check",
            &path(name),
            "--fix",
            &path("out/fixed.jsonl"),
        ]);
        assert_eq!(answer.code, 3, "{name}: {}", answer.stderr);
        assert_eq!(
            answer.stderr.matches("error[").count(),
            1,
            "{}",
            answer.stderr
        );
        let left = fs::read_dir(world.path("out")).expect("a folder");
        assert_eq!(left.count(), 0, "{name}");
    }
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
    // Wrong answers are told with the places of their rows, as the person's own files have them.
    let held_out = world.path("shards").to_string_lossy().into_owned();
    let scored = world.ctl(&["eval", &id.to_string(), "--data", &held_out]);
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    let log = world.ctl(&["logs", &(id + 1).to_string()]).stdout;
    for place in ["shards/a.json:1: ", "shards/b.jsonl.zst:2: "] {
        assert!(log.contains(place), "{place}: {log}");
    }
}

#[test]
fn a_preview_shows_rows_that_a_job_refuses_and_says_why() {
    let world = World::new(&[]);
    let model = tiny_model(&world.path("")).to_string_lossy().into_owned();
    let (asked, said) = (
        json!({"role": "user", "content": "q"}),
        json!({"role": "assistant", "content": "a"}),
    );
    let system = json!({"role": "system", "content": "s"});
    let call = json!({"id": "c", "name": "f"});
    let tools = json!([{"name": "f"}]);
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "r"});
    let calling = |calls: Value| json!({"role": "assistant", "content": "x", "tool_calls": calls});
    for (row, named) in [
        (json!({"messages": [asked, said, said]}), "speaks twice"),
        (
            json!({"messages": [system, system, asked, said]}),
            "a system message stands after",
        ),
        (
            json!({"messages": [asked, calling(json!([call, call])), result("c"), said], "tools": tools}),
            "have the id `c`",
        ),
        (
            json!({"messages": [asked, calling(json!([call])), result("z"), said], "tools": tools}),
            "that of no call",
        ),
        (
            json!({"messages": [asked, calling(json!([{"name": "g"}]))], "tools": tools}),
            "`g` is not among",
        ),
    ] {
        let rows = world.path("rows.jsonl");
        fs::write(&rows, format!("{row}\n")).expect("rows");
        let rows = rows.to_string_lossy();
        for form in [&["--json"][..], &[]] {
            let args = [
                ["data", "preview", &rows, "--model", &model].as_slice(),
                form,
            ]
            .concat();
            let answer = world.ctl(&args);
            let all = format!("{}{}", answer.stdout, answer.stderr);
            assert!(answer.code == 3 && all.contains(named), "{row}: {all}");
        }
    }
}

#[test]
fn what_a_template_leaves_out_is_a_finding_and_a_field_is_told_once() {
    let world = World::new(&[]);
    let model = tiny_model(&world.path(""));
    let template = "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(model.join("chat_template.jinja"), template).expect("a template");
    let model = model.to_string_lossy().into_owned();
    let asked = |n: usize| json!({"role": "user", "content": format!("q{n}")});
    let said = json!({"role": "assistant", "content": "a", "reasoning_content": "because"});
    let system = json!({"role": "system", "content": "s"});
    let tools = json!([{"name": "f"}]);
    let check = |rows: &[Value]| {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let path = world.path("rows.jsonl");
        fs::write(&path, lines).expect("rows");
        world.ctl(&["data", "check", &path.to_string_lossy(), "--model", &model])
    };
    let good: Vec<Value> = (0..3)
        .map(|n| json!({"messages": [asked(n), said]}))
        .collect();
    let answer = check(&good);
    let told = "the template does not write `reasoning_content`: 3 rows";
    assert!(
        answer.code == 0 && answer.stderr.matches(told).count() == 1,
        "{}",
        answer.stderr
    );
    for (row, named) in [
        (
            json!({"messages": [system, asked(1), said]}),
            "message 0: the chat template leaves out what this message of the role `system` says",
        ),
        (
            json!({"messages": [asked(1), said], "tools": tools}),
            "the chat template writes none of the row's `tools`",
        ),
    ] {
        let answer = check(&[row]);
        assert!(
            answer.code == 3 && answer.stdout.contains(named),
            "{} {}",
            answer.stdout,
            answer.stderr
        );
    }
}
