//! What `submit` and `config check` see of a model that is on this machine, before anything is
//! sent.

use std::fs;
use std::path::Path;

use qlora_tests::{World, conversations};

use crate::refusals::copy_of_tiny;

const SHORT: &str = "training: {max_steps: 2}";

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).expect("a text");
    fs::write(path, change(text)).expect("a text");
}

/// Both commands refuse `set` with exit code 3 and `words`, and nothing is sent.
pub fn refused(world: &World, set: &[String], words: &[&str]) {
    let config = world.config(SHORT).to_string_lossy().into_owned();
    let set: Vec<&str> = set.iter().flat_map(|pair| ["--set", pair]).collect();
    for command in [&["submit"][..], &["config", "check"]] {
        let answer = world.ctl(&[command, &[&config], &set].concat());
        assert_eq!(answer.code, 3, "{command:?} {set:?}: {}", answer.stderr);
        for word in words {
            assert!(
                answer.stderr.contains(word),
                "{command:?}: `{word}` is not in: {}",
                answer.stderr
            );
        }
    }
    assert!(
        world.ctl(&["jobs", "--json"]).json().is_empty(),
        "nothing was sent"
    );
}

#[test]
fn what_is_no_model_is_refused_by_name_where_it_lies_on_this_machine() {
    let world = World::new(&[]);
    for lacking in ["config.json", "model.safetensors", "tokenizer.json"] {
        let folder = copy_of_tiny(&world, &format!("no-{lacking}"));
        fs::remove_file(folder.join(lacking)).expect("one file less");
        let base = format!("model.base={}", folder.display());
        refused(
            &world,
            &[base],
            &["`model.base` (--set model.base)", lacking, "Q0511"],
        );
    }
    fs::write(world.path("notes.txt"), "no model").expect("a file");
    for (name, words) in [
        ("notes.txt", "no GGUF file"),
        ("tiny/model.safetensors", "no GGUF file"),
        (".", "config.json"),
    ] {
        let base = format!("model.base={}", world.path(name).display());
        refused(&world, &[base], &["`model.base`", words]);
    }
    let odd = copy_of_tiny(&world, "odd");
    edit(&odd.join("config.json"), |text| {
        text.replace("\"llama\"", "\"mamba\"")
    });
    refused(
        &world,
        &[format!("model.base={}", odd.display())],
        &["Q0518", "mamba"],
    );
}

#[test]
fn a_template_that_the_model_does_not_have_is_refused_with_those_that_it_has() {
    let world = World::new(&[]);
    for name in ["llama3", "chatml", "own", "rag"] {
        refused(
            &world,
            &[format!("data.template={name}")],
            &[
                "[Q0103]",
                &format!("`{name}`"),
                "(--set data.template)",
                "auto, chatml-tools",
                "default",
                "Jinja",
            ],
        );
    }
    // The model's own names are names.
    let named = copy_of_tiny(&world, "named");
    let template = fs::read_to_string(named.join("chat_template.jinja")).expect("a template");
    fs::create_dir(named.join("additional_chat_templates")).expect("a folder");
    fs::write(
        named.join("additional_chat_templates/llama3.jinja"),
        template,
    )
    .expect("a template");
    let base = format!("model.base={}", named.display());
    world.submit(
        &world.config(SHORT),
        &["--set", &base, "--set", "data.template=llama3"],
    );
    // A base model has none, and nothing is taken in its place.
    let bare = copy_of_tiny(&world, "bare");
    fs::remove_file(bare.join("chat_template.jinja")).expect("no template");
    edit(&bare.join("tokenizer_config.json"), |text| {
        let mut settings: serde_json::Value = serde_json::from_str(&text).expect("settings");
        settings
            .as_object_mut()
            .expect("an object")
            .remove("chat_template");
        settings.to_string()
    });
    let other = World::new(&[]);
    refused(
        &other,
        &[format!("model.base={}", bare.display())],
        &["has no chat template of its own", "chatml-tools"],
    );
    // Of a model that is not here, names of other tools and misspelled ones are refused all the same.
    for base in ["llama-3.1-8b-instruct", "me/mine", "/models/on/the/worker"] {
        let set = [format!("model.base={base}"), "data.template=chatml".into()];
        refused(
            &other,
            &set,
            &["`chatml`", "auto, chatml-tools", "default, tool_use, rag"],
        );
    }
    let set = [
        "model.base=mistral-7b-instruct".to_owned(),
        "data.template=toll_use".into(),
    ];
    refused(&other, &set, &["`toll_use`", "tool_use"]);
}

#[test]
fn sequences_beyond_the_models_positions_are_refused_before_anything_is_sent() {
    let world = World::new(&[]);
    for (base, positions) in [
        (world.path("tiny").display().to_string(), 1024),
        ("smollm2-135m-instruct".into(), 8192),
    ] {
        let set = [
            format!("model.base={base}"),
            format!("data.max_seq_len={}", positions + 1),
        ];
        refused(
            &world,
            &set,
            &[
                "[Q0103]",
                "(--set data.max_seq_len)",
                &positions.to_string(),
                "lower data.max_seq_len",
            ],
        );
    }
}

fn place_of(row: usize) -> String {
    format!("rows.jsonl:{row}")
}

#[test]
fn rows_that_the_template_cannot_render_are_refused_with_their_places() {
    let world = World::new(&[]);
    let config = world.config(SHORT).to_string_lossy().into_owned();
    let refusing = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
        <|im_start|>{{ m.role }}\n{{ m.content or m.tool_calls }}<|im_end|>\n{% endfor %}";
    fs::write(world.path("tiny/chat_template.jinja"), refusing).expect("a template");
    let system = "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}";
    let plain = system.replace("{\"role\": \"system\", \"content\": \"s\"}, ", "");
    for role in ["train", "eval"] {
        for (at, rows) in [
            (1, vec![system, &plain, &plain]),
            (3, vec![&plain, &plain, system]),
        ] {
            fs::write(world.path("rows.jsonl"), rows.join("\n")).expect("rows");
            fs::write(world.path("good.jsonl"), format!("{plain}\n")).expect("rows");
            let other = if role == "train" { "eval" } else { "train" };
            let (bad, good) = (world.path("rows.jsonl"), world.path("good.jsonl"));
            let set = [
                format!("data.{role}={}", bad.display()),
                format!("data.{other}={}", good.display()),
            ];
            let answer = world.ctl(&["submit", &config, "--set", &set[0], "--set", &set[1]]);
            assert_eq!(answer.code, 3, "{}", answer.stderr);
            let place = format!("{}: ", place_of(at));
            for word in [
                "error[Q0204]: 1 of the first 3 rows",
                &place,
                "no system here",
                "data.template: chatml-tools",
            ] {
                assert!(
                    answer.stderr.contains(word),
                    "`{word}` is not in: {}",
                    answer.stderr
                );
            }
            let json = world.ctl(&[
                "submit", &config, "--set", &set[0], "--set", &set[1], "--json",
            ]);
            let value: serde_json::Value =
                serde_json::from_str(json.stderr.lines().last().unwrap_or_default())
                    .expect("one object");
            let errors = value["errors"].as_array().expect("errors");
            assert_eq!(
                (errors.len(), &errors[1]["code"]),
                (2, &"Q0204".into()),
                "{value:#}"
            );
            assert!(
                errors[1]["place"]
                    .as_str()
                    .is_some_and(|place| place.ends_with(&place_of(at))),
                "{value:#}"
            );
        }
    }
    assert!(
        world.ctl(&["jobs", "--json"]).json().is_empty(),
        "nothing was sent"
    );
    // What every row has is told once.
    fs::write(world.path("rows.jsonl"), [system; 40].join("\n")).expect("rows");
    let set = format!("data.train={}", world.path("rows.jsonl").display());
    let answer = world.ctl(&["submit", &config, "--set", &set]);
    assert_eq!(
        answer.stderr.matches("no system here").count(),
        1,
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("40 of the first 40 rows")
            && answer.stderr.contains("in 39 further rows"),
        "{}",
        answer.stderr
    );
    // The way out is one.
    fs::write(world.path("train.jsonl"), conversations(3)).expect("rows");
    world.submit(
        &world.config(SHORT),
        &["--set", "data.template=chatml-tools"],
    );
}

/// A GGUF file is looked at as a folder is.
#[test]
fn a_gguf_file_has_a_template_and_positions_too() {
    let world = World::new(&[]);
    let (tiny, out) = (
        world.path("tiny").display().to_string(),
        world.path("tiny.gguf").display().to_string(),
    );
    assert!(
        crate::formats::worker(&["convert", "--model", &tiny, "--out", &out])
            .status
            .success()
    );
    let base = format!("model.base={out}");
    refused(
        &world,
        &[base.clone(), "data.template=own".into()],
        &["`own`", "default"],
    );
    refused(
        &world,
        &[base.clone(), "data.max_seq_len=1025".into()],
        &["1024 positions"],
    );
    world.submit(&world.config(SHORT), &["--set", &base]);
}

#[test]
fn rows_with_nothing_to_train_on_are_refused_where_the_file_has_no_others() {
    let world = World::new(&[]);
    let config = world.config(SHORT).to_string_lossy().into_owned();
    let submit = |set: &[&str]| {
        let set: Vec<&str> = set.iter().flat_map(|pair| ["--set", pair]).collect();
        world.ctl(&[&["submit", &config], &set[..]].concat())
    };
    // The template has no place for what the assistant says.
    let deaf = "data.template={% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}\
        {% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}";
    let answer = submit(&[deaf]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    for set in [
        ["data.too_long=error", "data.max_seq_len=16"],
        ["data.too_long=truncate", "data.max_seq_len=8"],
    ] {
        let answer = submit(&set);
        assert!(
            answer.code == 3 && answer.stderr.contains("data.max_seq_len"),
            "{set:?}: {}",
            answer.stderr
        );
    }
    assert!(
        world.ctl(&["jobs", "--json"]).json().is_empty(),
        "nothing was sent"
    );
}
