//! Damaged and strange files: each is refused by name, quickly, before anything is allocated for what it claims.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use qlora_config::DeviceKind;
use qlora_trainer::Blame;
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::score::{Answerer, Conversation, Subject};
use qlora_trainer::weights::Checkpoint;
use serde_json::json;
use toy::{config, held_as, logits, model, ones, refused, sharded, tensors};

fn base(home: &Path) -> PathBuf {
    model(&home.join("base"), &config(), &tensors())
}

fn gguf(home: &Path) -> PathBuf {
    let out = home.join("whole.gguf");
    export::convert(&base(home), &out, &held_as("nf4"), ElementType::F32, &mut |_, _| {}).expect("a file");
    out
}

/// `bytes` with the first `from` replaced by `to`, of the same length.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|part| part == from).expect("a place");
    let mut changed = bytes.to_vec();
    changed[at..at + to.len()].copy_from_slice(to);
    changed
}

#[test]
fn a_key_that_stands_twice_is_refused_by_name_in_every_settings_file() {
    for (name, text, key) in [
        ("config.json", format!("{{\"rms_norm_eps\": 1e-6,\n{}", &config().to_string()[1..]), "rms_norm_eps"),
        ("tokenizer_config.json", "{\"eos_token\": \"a\",\n\"eos_token\": \"b\"}".into(), "eos_token"),
        ("generation_config.json", "{\"eos_token_id\": 1,\n\"eos_token_id\": 2}".into(), "eos_token_id"),
        ("special_tokens_map.json", "{\"bos_token\": \"a\",\n\"bos_token\": \"b\"}".into(), "bos_token"),
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
    let twice = text.replacen("\"weight_map\":{", "\"weight_map\":{\"lm_head.weight\":\"model-1.safetensors\",", 1);
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
    fs::write(&path, text.replacen('{', "{\"longest_text\": 1000000000000000019884624838656,", 1)).expect("a file");
    logits(&base, None).expect("logits");
}

#[test]
fn a_safetensors_header_that_cannot_be_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("model.safetensors");
    let whole = fs::read(&path).expect("a file");
    let write = |bytes: &[u8]| fs::write(&path, bytes).expect("a file");
    write(&patched(&whole, b"layers.1.input_layernorm", b"layers.0.input_layernorm"));
    refused(&base, None, &["layers.0.input_layernorm.weight", "twice"]);
    write(&patched(&whole, b"\"data_offsets\":[0,", b"\"data_offsets\":[8,"));
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
fn a_gguf_header_that_cannot_be_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = fs::read(gguf(home.path())).expect("a file");
    let path = home.path().join("changed.gguf");
    let refuses = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).expect("a file");
        let words = [&["changed.gguf"], words].concat();
        refused(&path, None, &words);
    };
    refuses(
        &patched(&whole, b"blk.1.attn_norm.weight", b"blk.0.attn_norm.weight"),
        &["blk.0.attn_norm.weight", "twice"],
    );
    refuses(&patched(&whole, b"llama.rope.freq_base", b"llama.embedding_leng"), &["changed.gguf"]);
    refuses(&patched(&whole, b"llama.vocab_size", b"llama.block_coun"), &["changed.gguf"]);
    let doubled = patched(&whole, b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.bos_token_id");
    refuses(&doubled, &["tokenizer.ggml.bos_token_id", "twice"]);
    // Counts, sizes and places that no file has room for.
    for (from, to) in [(8, u64::MAX), (16, u64::MAX), (8, 1 << 29), (16, 1 << 29)] {
        let mut changed = whole.clone();
        changed[from..from + 8].copy_from_slice(&to.to_le_bytes());
        refuses(&changed, &[]);
    }
    let name = b"output_norm.weight";
    let at = whole.windows(name.len()).position(|part| part == name).expect("a tensor") + name.len();
    for (place, value, word) in [
        (at + 4, 0u64, "output_norm.weight"),
        (at + 4, u64::MAX, "output_norm.weight"),
        (at + 4, 1 << 60, "output_norm.weight"),
        (at + 16, 0, "overlaps"),
        (at + 16, u64::MAX, "cut off"),
    ] {
        let mut changed = whole.clone();
        changed[place..place + 8].copy_from_slice(&value.to_le_bytes());
        refuses(&changed, &[word]);
    }
    // The alignment is a key of one value, so another one of the same length makes room for it.
    for alignment in [0u32, 3, 7] {
        let changed = patched(&whole, b"general.file_type", b"general.alignment");
        let key = b"general.alignment";
        let at = changed.windows(key.len()).position(|part| part == key).expect("a key") + key.len() + 4;
        let mut changed = changed;
        changed[at..at + 4].copy_from_slice(&alignment.to_le_bytes());
        refuses(&changed, &["general.alignment"]);
    }
    for length in (0..whole.len()).step_by(whole.len() / 23) {
        refuses(&whole[..length], &[]);
    }
}

#[test]
fn the_way_of_cutting_text_is_the_one_that_a_gguf_names() {
    let home = tempfile::tempdir().expect("a folder");
    let file = gguf(home.path());
    let text = "It's 2024-07-26: Hello   World\n\n x1234567 don't";
    let ids = |path: &Path| {
        let checkpoint = Checkpoint::open(path).expect("a model");
        checkpoint.files.tokenizer().expect("a tokenizer").encode(text, false).expect("tokens").get_ids().to_vec()
    };
    assert_eq!(ids(&file), ids(&home.path().join("base")));
    let whole = fs::read(&file).expect("a file");
    let path = home.path().join("other.gguf");
    fs::write(&path, patched(&whole, b"llama-bpe", b"llama-xyz")).expect("a file");
    refused(&path, None, &["tokenizer.ggml.pre", "llama-xyz"]);
    fs::write(&path, patched(&whole, b"tokenizer.ggml.pre", b"tokenizer.ggml.prf")).expect("a file");
    refused(&path, None, &["tokenizer.ggml.pre", "missing"]);
}

#[test]
fn a_byte_level_cut_that_gguf_has_no_name_for_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a tokenizer")).expect("JSON");
    let mut written = |space: bool, regex: bool| {
        tokenizer["pre_tokenizer"] =
            json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
        fs::write(&path, tokenizer.to_string()).expect("a tokenizer");
        let out = home.path().join(format!("{space}-{regex}.gguf"));
        let written = export::convert(&base, &out, &held_as("nf4"), ElementType::F16, &mut |_, _| {});
        written.map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(written(false, true), Ok(()));
    for (space, regex) in [(true, true), (false, false), (true, false)] {
        let fault = written(space, regex).expect_err("another cut was written");
        assert!(fault.contains("cuts text"), "{fault}");
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
        let written = export::convert(&base, &out, &held_as("nf4"), ElementType::F16, &mut |_, _| {});
        let fault = written.map(|_| ()).expect_err("an infinity was written").to_string();
        assert!(fault.contains(name) && fault.contains("NF4"), "{fault}");
        let mut left = fs::read_dir(home.path()).expect("a folder").filter_map(Result::ok);
        assert!(!out.exists() && left.all(|e| !e.file_name().to_string_lossy().ends_with(".partial")));
    }
}

#[test]
fn a_result_that_is_not_finite_is_an_error_that_says_where_it_began() {
    let home = tempfile::tempdir().expect("a folder");
    let base = large(home.path(), "model.layers.1.mlp.up_proj.weight", 3e38);
    let fault = logits(&base, None).map(|_| ()).expect_err("a NaN was a result");
    assert!(fault.contains("position 0") && fault.contains("block 1"), "{fault}");
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
    })
    .expect("a model");
    let fault = answerer.score(&rows, "rows.jsonl", 9, |_| Ok(())).expect_err("a NaN was a score");
    assert_eq!(fault.blame(), Blame::Input);
    let text = fault.to_string();
    assert!(text.contains("rows.jsonl") && text.contains('1') && text.contains("block 1"), "{text}");
    let question = Conversation { messages: vec![json!({"role": "user", "content": "Hi"})], tools: Vec::new() };
    let fault = answerer.answer(&question).expect_err("a NaN gave an answer").to_string();
    assert!(fault.contains("token 1") && fault.contains("block 1"), "{fault}");
}

#[test]
fn templates_with_names_come_back_from_a_gguf_file_and_stay_beside_the_trained_one() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let others = base.join("additional_chat_templates");
    fs::create_dir_all(&others).expect("a folder");
    fs::write(base.join("chat_template.jinja"), "default {{ messages }}").expect("a template");
    for name in ["rag", "tool_use"] {
        fs::write(others.join(format!("{name}.jinja")), format!("{name} {{{{ messages }}}}")).expect("a template");
    }
    let templates = |path: &Path| {
        let files = Checkpoint::open(path).expect("a model").files;
        let mut all: Vec<_> =
            files.template.expect("templates").iter().map(|(n, t)| (n.to_owned(), t.to_owned())).collect();
        all.sort();
        all
    };
    let wanted = templates(&base);
    assert_eq!(wanted.len(), 3);
    let out = home.path().join("base.gguf");
    export::convert(&base, &out, &held_as("nf4"), ElementType::F16, &mut |_, _| {}).expect("a file");
    assert_eq!(templates(&out), wanted);
    let nf4 = home.path().join("nf4");
    export::convert(&base, &nf4, &held_as("nf4"), ElementType::F16, &mut |_, _| {}).expect("a folder");
    assert_eq!(templates(&nf4), wanted);
    let adapter = home.path().join("adapter");
    fs::create_dir_all(&adapter).expect("a folder");
    let from = toy::golden("qlora_run/attn_r8/final_adapter");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), adapter.join(name)).expect("an adapter");
    }
    fs::write(adapter.join("chat_template.jinja"), "trained {{ messages }}").expect("a template");
    let mut trained = wanted.clone();
    trained[0].1 = "trained {{ messages }}".into();
    for (model, name) in [(&base, "merged"), (&base, "merged.gguf"), (&out, "again.gguf")] {
        let to = home.path().join(name);
        let base = export::Base::Original;
        let merged = export::merge(model, &adapter, &to, base, &held_as("nf4"), ElementType::F16, &mut |_, _| {});
        let merged = merged.expect("a merged model");
        assert_eq!(templates(&to), trained, "{name}");
        assert!(merged.notes.iter().any(|note| note.contains("`tool_use`")), "{:?}", merged.notes);
    }
}

#[test]
fn an_adapter_without_the_wrapper_s_name_is_the_same_and_one_with_doubled_keys_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let (from, to) = (toy::golden("qlora_run/attn_r8/final_adapter"), home.path().join("adapter"));
    fs::create_dir_all(&to).expect("a folder");
    fs::copy(from.join("adapter_config.json"), to.join("adapter_config.json")).expect("settings");
    let wanted = logits(&base, Some(&from)).expect("logits").0;
    let factors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &candle_core::Device::Cpu)
        .expect("factors");
    let bare: std::collections::HashMap<String, Tensor> =
        factors.into_iter().map(|(name, t)| (name.replacen("base_model.model.", "", 1), t)).collect();
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
    refused(&base, Some(&to), &["init_lora_weights", "pissa", "path_initial_model"]);
}
