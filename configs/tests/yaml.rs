//! What people write for a value, as YAML 1.1, YAML 1.2 and other formats have it: each is done, or
//! refused with its line and the way out.

use qlora_config::{Checkpointing, Layers, ResolvedConfig};

const HEAD: &str = "model: {base: x}\ndata: {train: t.jsonl}\n";

fn resolve(text: &str) -> Result<ResolvedConfig, String> {
    let layers = Layers {
        file: Some(("f.yaml".into(), text.into())),
        ..Layers::default()
    };
    layers.resolve().map_err(|e| e.to_string())
}

fn training(value: &str) -> Result<ResolvedConfig, String> {
    resolve(&format!("{HEAD}training: {{{value}}}\n"))
}

#[test]
fn values_that_mean_one_thing_are_read() {
    for (yes, no) in [
        ("true", "false"),
        ("True", "FALSE"),
        ("yes", "no"),
        ("Yes", "No"),
        ("on", "off"),
        ("ON", "Off"),
    ] {
        for (word, wanted) in [(yes, true), (no, false)] {
            let config = training(&format!("offload: {word}")).expect(word);
            assert_eq!(config.config().training.offload, wanted, "{word}");
        }
    }
    for (text, wanted) in [
        ("1000", 1000),
        ("1_000", 1000),
        ("0o17", 15),
        ("0x1F", 31),
        ("+5", 5),
    ] {
        let config = training(&format!("max_steps: {text}")).expect(text);
        assert_eq!(config.config().training.max_steps, Some(wanted), "{text}");
    }
    for text in ["1e-4", "1E-4", "1.0e-4", ".0001", "1.e-4"] {
        let config = training(&format!("learning_rate: {text}")).expect(text);
        assert!(
            (config.config().training.learning_rate - 1e-4).abs() < 1e-18,
            "{text}"
        );
    }
    for text in ["~", "null", "NULL", ""] {
        assert_eq!(
            training(&format!("max_steps: {text}"))
                .expect(text)
                .config()
                .training
                .max_steps,
            None,
            "{text}"
        );
    }
    let config = training("gradient_checkpointing: yes").expect("a flag");
    assert_eq!(
        config.config().training.gradient_checkpointing,
        Checkpointing::On
    );
    let named = resolve(&format!("{HEAD}name: 2026-01-01\n")).expect("a name");
    assert_eq!(named.config().name.as_deref(), Some("2026-01-01"));
}

#[test]
fn forms_of_a_file_are_read_alike() {
    let plain = "extends: cpu\nmodel:\n  base: x\ndata:\n  train: t.jsonl\nlora:\n  r: 8\n";
    let wanted = resolve(plain).expect("valid");
    for text in [
        format!("\u{feff}{plain}"),
        plain.replace('\n', "\r\n"),
        format!("\u{feff}{}", plain.replace('\n', "\r\n")),
        format!("---\n{plain}...\n"),
        format!("# a comment\n%YAML 1.2\n---\n{plain}").replace("# a comment\n", ""),
        "{\"extends\": \"cpu\", \"model\": {\"base\": \"x\"}, \"data\": {\"train\": \"t.jsonl\"}, \"lora\": {\"r\": 8}}".into(),
        "{\n\t\"extends\": \"cpu\",\n\t\"model\": {\n\t\t\"base\": \"x\"},\n\t\"data\": {\"train\": \"t.jsonl\"},\n\t\"lora\": {\"r\": 8}\n}\n"
            .into(),
        plain.replace("  r: 8", "  <<: {r: 8}"),
        plain.replace("  r: 8", "  <<: {r: 4}\n  r: 8"),
    ] {
        let found = resolve(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(found.json(), wanted.json(), "{text:?}");
    }
    let shared = resolve(&format!(
        "{HEAD}lora: {{dropout: &share 0.1}}\ntraining: {{warmup_ratio: *share}}\n"
    ));
    assert_eq!(
        shared.expect("an anchor").config().training.warmup_ratio,
        0.1
    );
}

#[test]
fn a_value_that_is_none_is_refused_with_its_line_and_the_way_out() {
    for (value, parts) in [
        (
            "learning_rate: .inf",
            &["`training.learning_rate` must be a number", "infinity"][..],
        ),
        (
            "learning_rate: -.INF",
            &["`training.learning_rate`", "infinity"],
        ),
        ("learning_rate: .nan", &["`training.learning_rate`", "NaN"]),
        ("learning_rate: 1e400", &["`training.learning_rate`", "308"]),
        (
            "learning_rate: 2e-4f",
            &["`training.learning_rate`", "`2e-4f` is no number"],
        ),
        (
            "max_steps: 017",
            &["`training.max_steps`", "write 17, or 0o17"],
        ),
        ("max_steps: 000", &["`training.max_steps`", "write 0,"]),
        (
            "max_steps: 1e3",
            &[
                "`training.max_steps` must be a whole number, not 1e3",
                "write 1000",
            ],
        ),
        (
            "max_steps: 100.0",
            &[
                "`training.max_steps` must be a whole number, not 100.0",
                "write 100,",
            ],
        ),
        (
            "max_steps: 1.5",
            &["`training.max_steps` must be a whole number, not 1.5"],
        ),
        (
            "max_steps: 2026-01-01",
            &["`training.max_steps`", "`2026-01-01` is no number"],
        ),
        (
            "max_steps: 99999999999999999999",
            &["`training.max_steps` is", "up to 18446744073709551615"],
        ),
        (
            "checkpoints_to_keep: 5000000000",
            &["is 5000000000, more than", "up to 4294967295"],
        ),
        ("max_steps: '10'", &["write 10 without quotes"]),
        (
            "max_steps: yes",
            &["`training.max_steps` must be a whole number, not true"],
        ),
        ("epochs: \"1,5\"", &["write 1.5, with a point"]),
        ("epochs: 1,5", &["unknown key `training.5`", "such as 1.5"]),
        ("epochs: !years 2", &["!years", "remove the tag"]),
        (
            "offload: 1",
            &["`training.offload` must be true or false, not 1"],
        ),
        ("offload: \"yes\"", &["write true"]),
        ("schedule: Cosine", &["did you mean `cosine`?"]),
        ("optimizer: adamw_8bit", &["did you mean `adamw8bit`?"]),
    ] {
        let fault = training(value).expect_err(value);
        for part in [&["(f.yaml:3:"], parts].concat() {
            assert!(
                fault.contains(part),
                "{value}: `{part}` is not in:\n{fault}"
            );
        }
    }
    for (line, parts) in [
        (
            "name: no",
            &["`name` must be text, not no", "write it in quotes: \"no\""][..],
        ),
        ("name: 2_024 # year", &["write it in quotes: \"2_024\""]),
        (
            "lora: {target_modules: [q, v]}",
            &["did you mean `q_proj`?"],
        ),
        ("lora: {target_modules: q_proj}", &["write [q_proj]"]),
        ("lora: {target_modules: up_proj}", &["write [up_proj]"]),
        (
            "lora: {target_modules: q_porj}",
            &[
                "`lora.target_modules` cannot be `q_porj`",
                "did you mean [q_proj]?",
            ],
        ),
        (
            "lora: {target_modules: [q_porj]}",
            &["cannot be `q_porj`", "did you mean `q_proj`?"],
        ),
        (
            "lora: {target_modules: 'q_proj,v_proj'}",
            &["write [q_proj, v_proj]"],
        ),
        (
            "lora: {target_modules: q_proj v-proj}",
            &["did you mean [q_proj, v_proj]?"],
        ),
        (
            "lora: {target_modules: all}",
            &["did you mean `all-linear`?"],
        ),
        (
            "lora: {target_modules: attention}",
            &["a list such as [q_proj, v_proj]"],
        ),
        (
            "resources: {labels: {a: 1, b: yes, c: x}}",
            &[
                "`resources.labels.a`",
                "\"1\"",
                "`resources.labels.b`",
                "\"yes\"",
            ],
        ),
    ] {
        let fault = resolve(&format!("{HEAD}{line}\n")).expect_err(line);
        for part in [&["(f.yaml:3:"], parts].concat() {
            assert!(fault.contains(part), "{line}: `{part}` is not in:\n{fault}");
        }
        assert!(!fault.contains("labels.c"), "{fault}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_line_and_the_way_out() {
    for (text, parts) in [
        (
            format!("{HEAD}---\nlora: {{r: 8}}\n"),
            &["a second document starts", "f.yaml:4:", "file of its own"][..],
        ),
        (
            "model: {base: x\ndata: {train: t.jsonl}\n".into(),
            &["a `{` or `[` is not closed"],
        ),
        (
            "model: {base: x}\nlora: {target_modules: [q_proj, v_proj}\n".into(),
            &["a `{` or `[` is not closed"],
        ),
        (
            "- model: {base: x}\n- data: {}\n".into(),
            &["a list stands at its top"],
        ),
        ("model\n".into(), &["a single value stands at its top"]),
        (
            format!("{HEAD}training:\n\tepochs: 2\n"),
            &["a tab indents this line", "f.yaml:4:", "spaces"],
        ),
        (
            format!("{HEAD}training:\n  epochs: 2\n\tseed: 1\n"),
            &["tab", "f.yaml:5:"],
        ),
        (
            format!("{HEAD}name: *nobody\n"),
            &["an alias names an anchor", "f.yaml:3:", "in quotes"],
        ),
        (
            "model: {base: \"C:\\models\\x\"}\n".into(),
            &["escape", "f.yaml:1:", "single quotes"],
        ),
        (format!("{HEAD}lora: {{r: 8\n"), &["f.yaml is not YAML"]),
        (
            format!("{HEAD}x-lora: &l {{r: 8}}\n"),
            &["unknown key `x-lora`", "f.yaml:3:1", "`&anchor`"],
        ),
    ] {
        let fault = resolve(&text).expect_err(&text);
        for part in parts {
            assert!(
                fault.contains(part),
                "{text:?}: `{part}` is not in:\n{fault}"
            );
        }
        assert!(!fault.contains("from_str"), "{fault}");
    }
}

#[test]
fn paths_of_a_shell_are_refused_and_those_of_windows_are_not() {
    for path in [
        "~/rows.jsonl",
        "~ann/rows.jsonl",
        "$HOME/rows.jsonl",
        "${DATA}/rows.jsonl",
        "%USERPROFILE%\\rows.jsonl",
    ] {
        for (key, section) in [
            ("model.base", "model"),
            ("data.train", "data"),
            ("data.eval", "data"),
        ] {
            let layers = Layers {
                file: Some(("f.yaml".into(), HEAD.into())),
                set: vec![format!("{key}={path}")],
                ..Layers::default()
            };
            let fault = layers.resolve().expect_err(path).to_string();
            let first = path.split(['/', '\\']).next().expect("a part");
            assert!(
                fault.contains(&format!("`{key}` starts with `{first}`")),
                "{section}: {fault}"
            );
            assert!(fault.contains("--set"), "{fault}");
        }
    }
    for path in [
        "C:\\rows\\a.jsonl",
        "C:/rows/a.jsonl",
        "\\\\host\\share\\a.jsonl",
        "a$b.jsonl",
        "a~.jsonl",
        "100%.jsonl",
    ] {
        let config =
            resolve(&format!("model: {{base: x}}\ndata: {{train: '{path}'}}\n")).expect(path);
        assert_eq!(config.config().data.train.as_deref(), Some(path));
    }
}

#[test]
fn keys_of_other_tools_are_told_what_ours_are_called() {
    for (line, help) in [
        (
            "learning_rate: 1e-4",
            "did you mean `training.learning_rate`?",
        ),
        ("lora_r: 8", "`lora.r` is the rank"),
        ("lora: {rank: 8}", "`lora.r` is the rank"),
        ("lora: {lora_alpha: 8}", "`lora.alpha` is the same"),
        ("load_in_4bit: true", "`model.quantization: nf4`"),
        ("training: {num_train_epochs: 3}", "`training.epochs`"),
        (
            "training: {per_device_train_batch_size: 3}",
            "`training.micro_batch_size`",
        ),
        (
            "training: {lora: {r: 3}}",
            "`lora` stands at the top of the file",
        ),
        ("base_model: x", "`model.base`"),
        ("sequence_len: 512", "`data.max_seq_len`"),
        ("sample_packing: true", "`data.batching: packed`"),
        ("val_set_size: 0.1", "`data.eval`"),
        ("Learning-Rate: 1", "the file takes"),
        (
            "training: {Learning-Rate: 1}",
            "did you mean `training.learning_rate`?",
        ),
        ("training: {EPOCHS: 1}", "did you mean `training.epochs`?"),
        ("output_dir: out", "artifacts get"),
    ] {
        let fault = resolve(&format!("{HEAD}{line}\n")).expect_err(line);
        assert!(
            fault.contains("error[Q0101]") && fault.contains("(f.yaml:3:"),
            "{line}: {fault}"
        );
        assert!(fault.contains(help), "{line}: {fault}");
    }
}

#[test]
fn a_byte_order_mark_before_the_file_is_no_content() {
    let text = "model: {base: m}\ndata: {train: t.jsonl}\n";
    let read = |text: String| {
        Layers {
            file: Some(("f.yaml".into(), text)),
            env: Vec::new(),
            set: Vec::new(),
        }
        .resolve()
    };
    let plain = read(text.into()).expect("a configuration");
    let marked = read(format!("\u{feff}{text}")).expect("a configuration");
    assert_eq!(
        format!("{:?}", plain.config()),
        format!("{:?}", marked.config())
    );
    // Places and values of the first line are where they were.
    let faults = ["", "\u{feff}"].map(|mark| {
        let text = format!(
            "{mark}lora: {{r: -7, alpha: none}}\nmodel: {{base: m}}\ndata: {{train: t.jsonl}}\n"
        );
        read(text).err().map(|e| e.to_string()).unwrap_or_default()
    });
    assert!(faults[0].contains("f.yaml:1:"), "{}", faults[0]);
    assert_eq!(faults[0], faults[1]);
}

#[test]
fn a_list_is_no_section_wherever_it_is_given() {
    for section in ["model", "data", "lora", "training", "resources"] {
        for list in ["[]", "[8, 16.0, false]", "\n  - r: 8"] {
            let told = resolve(&format!("{HEAD_OF_NONE}{section}: {list}\n")).expect_err(section);
            let wanted = format!("error[Q0108]: `{section}` must be a section of keys, not a list");
            assert!(told.contains(&wanted), "{section}: {list}: {told}");
            assert!(told.contains("(f.yaml:2:1)"), "{told}");
        }
        let layers = Layers {
            set: vec![format!("{section}=[1, 2]")],
            ..Layers::default()
        };
        let told = layers.resolve().expect_err(section).to_string();
        assert!(
            told.contains("not a list") && told.contains(&format!("(--set {section})")),
            "{told}"
        );
    }
    let whole = resolve(HEAD).expect("a configuration");
    let mut recorded: serde_json::Value = serde_json::from_str(whole.json()).expect("JSON");
    let values: Vec<_> = recorded["lora"]
        .as_object()
        .expect("a section")
        .values()
        .cloned()
        .collect();
    recorded["lora"] = values.into();
    let told = ResolvedConfig::from_json(&recorded.to_string()).expect_err("a list");
    assert!(
        told.to_string().contains("`lora` must be a section"),
        "{told}"
    );
}

/// A comment, so that a section stands on the second line.
const HEAD_OF_NONE: &str = "# no model\n";

#[test]
fn advice_is_such_that_whoever_follows_it_is_done() {
    for (text, told, not) in [
        (
            "training: {gradient_checkpointing: \"true\"}",
            "write true without quotes",
            "did you mean",
        ),
        (
            "training: {gradient_checkpointing: 'False'}",
            "write false without quotes",
            "did you mean",
        ),
        (
            "resources: {device: gpu}",
            "`cuda` is an NVIDIA GPU",
            "`cpu`?",
        ),
        (
            "resources: {device: GPU}",
            "`metal` the GPU of a Mac",
            "`cpu`?",
        ),
        ("resources: {device: cup}", "did you mean `cpu`?", "NVIDIA"),
        (
            "lora: {target_modules: \"q_proj,v_proj\"}",
            "write [q_proj, v_proj]",
            "did you mean",
        ),
        (
            "lora: {target_modules: 'v_proj, k_proj, o_proj'}",
            "write [v_proj, k_proj, o_proj]",
            "did you mean",
        ),
        ("5: 3", "the file takes", "comma"),
        ("lora: {5: 3}", "lora takes", "comma"),
        (
            "training: {learning_rate: 1,5}",
            "a comma ends a value",
            "takes",
        ),
        (
            "resources: {labels: {\"\": x}}",
            "a label without a name",
            "without quotes",
        ),
        (
            "resources: {labels: {site: a, ' ': x}}",
            "a label without a name",
            "without quotes",
        ),
    ] {
        let fault = resolve(&format!("{HEAD}{text}\n")).expect_err(text);
        assert!(
            fault.contains(told) && !fault.contains(not),
            "{text}: {fault}"
        );
    }
}
