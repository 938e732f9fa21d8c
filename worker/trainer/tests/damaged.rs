//! Damaged and strange files: each is refused by name, quickly, before anything is allocated for
//! what it claims.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use qlora_config::{DeviceKind, FlashAttention};
use qlora_trainer::FailureClass;
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::score::{Answerer, Conversation, Subject};
use serde_json::json;
use toy::{config, held_as, logits, model, ones, patched, refused, sharded, tensors};

fn base(home: &Path) -> PathBuf {
    model(&home.join("base"), &config(), &tensors())
}

#[test]
fn a_key_that_stands_twice_is_refused_by_name_in_every_settings_file() {
    for (name, text, key) in [
        (
            "config.json",
            format!("{{\"rms_norm_eps\": 1e-6,\n{}", &config().to_string()[1..]),
            "rms_norm_eps",
        ),
        (
            "tokenizer_config.json",
            "{\"eos_token\": \"a\",\n\"eos_token\": \"b\"}".into(),
            "eos_token",
        ),
        (
            "generation_config.json",
            "{\"eos_token_id\": 1,\n\"eos_token_id\": 2}".into(),
            "eos_token_id",
        ),
        (
            "special_tokens_map.json",
            "{\"bos_token\": \"a\",\n\"bos_token\": \"b\"}".into(),
            "bos_token",
        ),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        fs::write(base.join(name), text).expect("a file");
        refused(&base, None, &[name, &format!("`{key}`"), "twice", "line 2"]);
    }
    let home = tempfile::tempdir().expect("a folder");
    let base = sharded(&home.path().join("m"), &tensors(), &["model-1.safetensors"]);
    let index = base.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).expect("an index");
    let twice = text.replacen(
        "\"weight_map\":{",
        "\"weight_map\":{\"lm_head.weight\":\"model-1.safetensors\",",
        1,
    );
    assert_ne!(text, twice);
    fs::write(&index, twice).expect("an index");
    refused(&base, None, &["index.json", "`lm_head.weight`", "twice"]);
}

#[test]
fn a_long_number_in_the_settings_of_a_tokenizer_is_taken() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("tokenizer_config.json");
    let text = fs::read_to_string(&path).expect("settings");
    fs::write(
        &path,
        text.replacen(
            '{',
            "{\"longest_text\": 1000000000000000019884624838656,",
            1,
        ),
    )
    .expect("a file");
    logits(&base, None).expect("logits");
}

#[test]
fn a_safetensors_header_that_cannot_be_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("model.safetensors");
    let whole = fs::read(&path).expect("a file");
    let write = |bytes: &[u8]| fs::write(&path, bytes).expect("a file");
    write(&patched(
        &whole,
        b"layers.1.input_layernorm",
        b"layers.0.input_layernorm",
    ));
    refused(&base, None, &["layers.0.input_layernorm.weight", "twice"]);
    write(&patched(
        &whole,
        b"\"data_offsets\":[0,",
        b"\"data_offsets\":[8,",
    ));
    refused(&base, None, &["model.safetensors", "header is broken"]);
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, whole.len() as u64] {
        let mut changed = whole.clone();
        changed[..8].copy_from_slice(&length.to_le_bytes());
        write(&changed);
        refused(&base, None, &["model.safetensors", "header"]);
    }
    write(&[whole.as_slice(), &[0; 5]].concat());
    refused(&base, None, &["model.safetensors", "5 bytes follow"]);
    for length in (0..whole.len()).step_by(whole.len() / 17) {
        write(&whole[..length]);
        refused(&base, None, &["model.safetensors"]);
    }
}

#[test]
fn more_blocks_than_tensors_are_refused_before_they_are_listed() {
    for layers in [300u64, 1 << 31, 1 << 40] {
        let home = tempfile::tempdir().expect("a folder");
        let mut config = config();
        config["num_hidden_layers"] = layers.into();
        let base = model(&home.path().join("base"), &config, &tensors());
        refused(&base, None, &["num_hidden_layers"]);
    }
}

/// A model with a row of `value` in a projection.
fn large(home: &Path, name: &str, value: f64) -> PathBuf {
    let mut all = tensors();
    let (rows, cols) = all[name].dims2().expect("a matrix");
    let row = ones(&[rows, cols], value);
    all.insert(name.into(), row);
    model(&home.join("large"), &config(), &all)
}

#[test]
fn scales_that_overflow_are_refused_by_tensor_before_a_file_stands_there() {
    let name = "model.layers.1.mlp.up_proj.weight";
    for value in [1e37, 1e38, 3e38] {
        let home = tempfile::tempdir().expect("a folder");
        let base = large(home.path(), name, value);
        let out = home.path().join("nf4");
        let written = export::convert(
            &base,
            &out,
            &held_as("nf4"),
            ElementType::F16,
            &mut |_, _| Ok(()),
        );
        let fault = written
            .map(|_| ())
            .expect_err("an infinity was written")
            .to_string();
        assert!(fault.contains(name) && fault.contains("NF4"), "{fault}");
        let mut left = fs::read_dir(home.path())
            .expect("a folder")
            .filter_map(Result::ok);
        assert!(
            !out.exists() && left.all(|e| !e.file_name().to_string_lossy().ends_with(".partial"))
        );
    }
}

#[test]
fn a_result_that_is_not_finite_is_an_error_that_says_where_it_began() {
    let home = tempfile::tempdir().expect("a folder");
    let base = large(home.path(), "model.layers.1.mlp.up_proj.weight", 3e38);
    let fault = logits(&base, None)
        .map(|_| ())
        .expect_err("a NaN was a result");
    assert!(
        fault.contains("position 0") && fault.contains("block 1"),
        "{fault}"
    );
    let rows = home.path().join("rows.jsonl");
    let messages = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]});
    fs::write(&rows, format!("{messages}\n")).expect("rows");
    let answerer = Answerer::open(&Subject {
        model: base,
        adapter: None,
        config: &held_as("none"),
        template: "chatml-tools".into(),
        max_new_tokens: 4,
        device: DeviceKind::Cpu,
        attention: FlashAttention::Auto,
    })
    .expect("a model");
    let fault = answerer
        .score(&rows, "rows.jsonl", 9, |_| Ok(()))
        .expect_err("a NaN was a score");
    assert_eq!(fault.failure_class(), FailureClass::Input);
    let text = fault.to_string();
    assert!(
        text.contains("rows.jsonl") && text.contains('1') && text.contains("block 1"),
        "{text}"
    );
    let question = Conversation {
        messages: vec![json!({"role": "user", "content": "Hi"})],
        tools: Vec::new(),
    };
    let fault = answerer
        .answer(&question)
        .expect_err("a NaN gave an answer")
        .to_string();
    assert!(
        fault.contains("token 1") && fault.contains("block 1"),
        "{fault}"
    );
}

#[test]
fn an_adapter_without_the_wrapper_s_name_is_the_same_and_one_with_doubled_keys_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let (from, to) = (
        toy::golden("qlora_run/attn_r8/final_adapter"),
        home.path().join("adapter"),
    );
    fs::create_dir_all(&to).expect("a folder");
    fs::copy(
        from.join("adapter_config.json"),
        to.join("adapter_config.json"),
    )
    .expect("settings");
    let wanted = logits(&base, Some(&from)).expect("logits").0;
    let factors = candle_core::safetensors::load(
        from.join("adapter_model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .expect("factors");
    let bare: std::collections::HashMap<String, Tensor> = factors
        .into_iter()
        .map(|(name, t)| (name.replacen("base_model.model.", "", 1), t))
        .collect();
    toy::save(&bare, &to.join("adapter_model.safetensors"));
    assert_eq!(logits(&base, Some(&to)).expect("logits").0, wanted);
    let path = to.join("adapter_config.json");
    let text = fs::read_to_string(&path).expect("settings");
    fs::write(&path, text.replacen('{', "{\"r\": 64,", 1)).expect("settings");
    refused(&base, Some(&to), &["adapter_config.json", "`r`", "twice"]);
    let change = |key: &str, value: serde_json::Value| {
        let mut settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        settings[key] = value;
        fs::write(&path, settings.to_string()).expect("settings");
    };
    change("lora_dropout", json!(1.5));
    refused(&base, Some(&to), &["lora_dropout", "1.5"]);
    change("init_lora_weights", json!("pissa"));
    refused(
        &base,
        Some(&to),
        &["init_lora_weights", "pissa", "path_initial_model"],
    );
}

/// The refusal of the model, which comes at once.
#[track_caller]
fn refused_soon(base: &Path, words: &[&str]) {
    let started = std::time::Instant::now();
    refused(base, None, words);
    assert!(started.elapsed().as_secs() < 60, "{words:?}");
}

const TEXTS: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];

#[test]
fn pipes_and_links_to_nothing_are_named_and_not_opened() {
    for name in [
        &TEXTS[..],
        &["model.safetensors", "model.safetensors.index.json"],
    ]
    .concat()
    {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        let path = base.join(name);
        if path.exists() {
            fs::remove_file(&path).expect("removed");
        }
        std::os::unix::fs::symlink("../gone", &path).expect("a link");
        refused_soon(&base, &[name, "a link to ../gone, which is not there"]);
        fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        refused_soon(&base, &[name, "a pipe, not a file"]);
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        refused_soon(&base, &[name, "a device, not a file"]);
    }
    let pipe = tempfile::tempdir().expect("a folder");
    let path = pipe.path().join("m.gguf");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    refused_soon(&path, &["m.gguf", "a pipe"]);
}

#[test]
fn settings_in_another_encoding_are_refused_with_the_way_out() {
    for name in [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        let path = base.join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
        let wide = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
            let body = text.encode_utf16().flat_map(bytes);
            mark.iter().copied().chain(body).collect::<Vec<u8>>()
        };
        for (bytes, encoding) in [
            (wide(&[0xff, 0xfe], u16::to_le_bytes), "UTF-16"),
            (wide(&[0xfe, 0xff], u16::to_be_bytes), "UTF-16"),
            (wide(&[], u16::to_le_bytes), "UTF-16"),
            (b"{\"a\": \"caf\xe9\"}".to_vec(), "byte 0xe9"),
        ] {
            fs::write(&path, bytes).expect("a file");
            refused(&base, None, &[name, encoding, "save it as UTF-8"]);
        }
        fs::write(&path, format!("\u{feff}{text}")).expect("a file");
        logits(&base, None).expect("a mark is skipped");
    }
}

#[test]
fn what_files_say_of_tokens_is_what_tokenizer_json_says() {
    let decoder = |id: &str, token: serde_json::Value| json!({"added_tokens_decoder": {id: token}});
    for (name, content, words) in [
        (
            "tokenizer_config.json",
            decoder("950", json!({"content": "<x>"})),
            &["`<x>`", "950", "would have it as 900"][..],
        ),
        (
            "tokenizer_config.json",
            decoder("4", json!({"content": "<s>"})),
            &["`<s>`", "4", "has it as 1"],
        ),
        (
            "tokenizer_config.json",
            decoder("4", json!({"content": 5})),
            &["without a text"],
        ),
        (
            "tokenizer_config.json",
            decoder("four", json!({"content": "<s>"})),
            &["without an id"],
        ),
        (
            "added_tokens.json",
            json!({"<x>": 950}),
            &["`<x>`", "950", "would have it as 900"],
        ),
        (
            "added_tokens.json",
            json!({"<s>": 2}),
            &["`<s>`", "has it as 1"],
        ),
        ("added_tokens.json", json!({"<s>": "1"}), &["without an id"]),
        (
            "tokenizer_config.json",
            json!({"bos_token": 5}),
            &["`bos_token` is 5"],
        ),
        (
            "tokenizer_config.json",
            json!({"pad_token": ["a"]}),
            &["`pad_token`"],
        ),
        ("generation_config.json", json!([]), &["no JSON object"]),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        fs::write(base.join(name), content.to_string()).expect("a file");
        refused(&base, None, &[&[name], words].concat());
    }
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let same = json!({"added_tokens_decoder": {"1": {"content": "<s>", "special": true}}, "pad_token": null});
    fs::write(base.join("tokenizer_config.json"), same.to_string()).expect("a file");
    fs::write(base.join("added_tokens.json"), "{\"</s>\": 2}").expect("a file");
    logits(&base, None).expect("files that agree");
}

#[test]
fn a_token_that_tokenizer_json_lacks_is_added_and_a_text_that_holds_it_is_refused() {
    let token = json!({"content": "<x>", "special": false});
    for (name, content) in [
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"900": token}}),
        ),
        ("added_tokens.json", json!({"<x>": 900})),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        fs::write(base.join(name), content.to_string()).expect("a file");
        let config = &held_as("none");
        let answerer = Answerer::open(&Subject {
            model: base,
            adapter: None,
            config,
            template: "{% for m in messages %}{{ m.content }}{% endfor %}".into(),
            max_new_tokens: 1,
            device: DeviceKind::Cpu,
            attention: FlashAttention::Auto,
        });
        let answerer = answerer.expect("a model");
        let told = |note: &String| note.contains("tokenizer.json lacks `<x>` (900)");
        assert!(answerer.notes.iter().any(told), "{:?}", answerer.notes);
        let ask = |content: &str| {
            answerer.answer(&Conversation {
                messages: vec![json!({"role": "user", "content": content})],
                tools: Vec::new(),
            })
        };
        ask("Hello").expect("an answer");
        let fault = ask("Hello <x>").expect_err("there is no such row");
        assert!(fault.to_string().contains("token id 900"), "{fault}");
    }
}

#[test]
fn a_tokenizer_that_draws_and_a_quantization_that_is_not_there_are_refused() {
    for dropout in [0.1, 1.0] {
        let home = tempfile::tempdir().expect("a folder");
        let base = base(home.path());
        let path = base.join("tokenizer.json");
        let text = fs::read_to_string(&path).expect("a tokenizer");
        let mut tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        tokenizer["model"]["dropout"] = dropout.into();
        fs::write(&path, tokenizer.to_string()).expect("a tokenizer");
        refused(&base, None, &["tokenizer.json", "`model.dropout`", "null"]);
    }
    let home = tempfile::tempdir().expect("a folder");
    let mut settings = config();
    settings["quantization_config"] =
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    let base = model(&home.path().join("base"), &settings, &tensors());
    refused(
        &base,
        None,
        &["config.json", "`quantization_config`", "16 or 32 bits"],
    );
}
