//! SentencePiece vocabularies in GGUF files: the ids of texts are those of SentencePiece and
//! llama.cpp (`tests/golden/gguf_llama`).

mod toy;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use qlora_testkit::golden_json;
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::weights::Checkpoint;
use serde_json::{Value, json};
use tokenizers::Tokenizer;
use toy::{config, golden, held_as, model, refused, tensors};

type Keys = HashMap<String, Meta>;

struct Sample {
    text: String,
    ids: Vec<u32>,
    without_prefix: Vec<u32>,
}

fn samples() -> Vec<Sample> {
    let ids = |value: &Value| {
        value
            .as_array()
            .expect("ids")
            .iter()
            .map(|id| id.as_u64().expect("an id") as u32)
            .collect()
    };
    let all = golden_json("gguf_llama/samples.json");
    let all = all.as_array().expect("a list").iter().map(|sample| Sample {
        text: sample["text"].as_str().expect("a text").into(),
        ids: ids(&sample["ids"]),
        without_prefix: ids(&sample["without_prefix"]),
    });
    let all: Vec<_> = all.collect();
    assert!(all.len() > 40);
    all
}

/// The golden vocabulary in the words of GGUF.
fn vocabulary() -> Keys {
    let all = golden_json("gguf_llama/vocabulary.json");
    let column = |to: &dyn Fn(&Value) -> Meta| {
        Meta::Array(all.as_array().expect("tokens").iter().map(to).collect())
    };
    let text = |text: &str| Meta::String(text.into());
    HashMap::from(
        [
            ("model", text("llama")),
            ("pre", text("default")),
            (
                "tokens",
                column(&|token| text(token[0].as_str().expect("a token"))),
            ),
            (
                "scores",
                column(&|token| Meta::F32(token[1].as_f64().expect("a score") as f32)),
            ),
            (
                "token_type",
                column(&|token| Meta::I32(token[2].as_i64().expect("a type") as i32)),
            ),
            ("bos_token_id", Meta::U32(1)),
            ("eos_token_id", Meta::U32(2)),
            ("unknown_token_id", Meta::U32(0)),
        ]
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)),
    )
}

struct Home {
    folder: tempfile::TempDir,
    sized: Vec<(String, QTensor)>,
    header: Keys,
}

impl Home {
    /// The toy model, with a row of its tables for each token of the golden vocabulary.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (base, whole) = (folder.path().join("base"), folder.path().join("whole.gguf"));
        let tokens = golden_json("gguf_llama/vocabulary.json")
            .as_array()
            .expect("tokens")
            .len();
        model(&base, &config(), &tensors());
        export::convert(
            &base,
            &whole,
            &held_as("nf4"),
            ElementType::F32,
            &mut |_, _| Ok(()),
        )
        .expect("a file");
        let mut file = File::open(&whole).expect("a file");
        let content = Content::read(&mut file).expect("a header");
        let mut sized = Vec::new();
        for name in content.tensor_infos.keys() {
            let mut tensor = content
                .tensor(&mut file, name, &Device::Cpu)
                .expect("a tensor");
            if ["token_embd.weight", "output.weight"].contains(&name.as_str()) {
                let rows = tensor
                    .dequantize(&Device::Cpu)
                    .and_then(|t| t.narrow(0, 0, tokens)?.affine(1.0, 0.0));
                tensor = QTensor::quantize(&rows.expect("rows"), GgmlDType::F32).expect("a table");
            }
            sized.push((name.clone(), tensor));
        }
        let own = |(key, _): &(String, Meta)| !key.starts_with("tokenizer.");
        let mut header: Keys = content.metadata.into_iter().filter(own).collect();
        header.insert("llama.vocab_size".into(), Meta::U32(tokens as u32));
        Self {
            folder,
            sized,
            header,
        }
    }

    /// A file of the golden vocabulary with `change`; a key without a value is left out.
    fn file(&self, name: &str, change: &[(&str, Option<Meta>)]) -> PathBuf {
        let mut keys: Keys = self
            .header
            .clone()
            .into_iter()
            .chain(vocabulary())
            .collect();
        for (key, value) in change {
            keys.remove(&format!("tokenizer.ggml.{key}"));
            keys.extend(
                value
                    .clone()
                    .map(|value| (format!("tokenizer.ggml.{key}"), value)),
            );
        }
        let mut keys: Vec<_> = keys
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        keys.sort_by_key(|(key, _)| *key);
        let tensors: Vec<_> = self
            .sized
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let path = self.folder.path().join(name);
        gguf_file::write(&mut File::create(&path).expect("a file"), &keys, &tensors)
            .expect("a written file");
        path
    }
}

fn tokenizer(path: &Path) -> Tokenizer {
    Checkpoint::open(path)
        .expect("a model")
        .files
        .tokenizer()
        .expect("a tokenizer")
        .clone()
}

fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer
        .encode(text, special)
        .expect("tokens")
        .get_ids()
        .to_vec()
}

/// Every sample gets its golden ids.
fn agrees(tokenizer: &Tokenizer, prefix: bool) {
    for sample in samples() {
        let wanted = if prefix {
            &sample.ids
        } else {
            &sample.without_prefix
        };
        assert_eq!(
            &ids(tokenizer, &sample.text, false),
            wanted,
            "{:?}, prefix {prefix}",
            sample.text
        );
    }
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let home = Home::new();
    agrees(&tokenizer(&home.file("m.gguf", &[])), true);
    agrees(
        &tokenizer(&home.file(
            "m.gguf",
            &[("pre", None), ("add_space_prefix", Some(Meta::Bool(true)))],
        )),
        true,
    );
    agrees(
        &tokenizer(&home.file("m.gguf", &[("add_space_prefix", Some(Meta::Bool(false)))])),
        false,
    );
}

#[test]
fn texts_come_back_and_only_tokens_of_control_are_left_out() {
    let home = Home::new();
    for prefix in [true, false] {
        let tokenizer =
            tokenizer(&home.file("m.gguf", &[("add_space_prefix", Some(Meta::Bool(prefix)))]));
        for Sample { text, .. } in samples() {
            let found = tokenizer
                .decode(&ids(&tokenizer, &text, false), true)
                .expect("a text");
            let plain = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]"]
                .iter()
                .fold(text.clone(), |t, s| t.replace(s, ""));
            // A character that SentencePiece writes for a space is one afterwards; a space is added
            // after each token that was cut out.
            let same = |text: &str| text.replace(['▁', ' '], "");
            assert_eq!(same(&found), same(&plain), "{text:?}");
            let special = ["<s>", "</s>", "<unk>", "INST]", "<tool>", "  |  "]
                .iter()
                .any(|s| text.contains(s));
            assert!(
                special || found == text.replace('▁', " "),
                "{text:?} became {found:?}"
            );
        }
    }
}

#[test]
fn the_ends_are_added_that_the_file_asks_for() {
    let home = Home::new();
    let ends = |change: &[(&str, Option<Meta>)]| {
        let tokenizer = tokenizer(&home.file("m.gguf", change));
        let all = ids(&tokenizer, "the weather", true);
        let bare = ids(&tokenizer, "the weather", false);
        let at = all
            .windows(bare.len())
            .position(|part| part == bare)
            .expect("the text");
        (all[..at].to_vec(), all[at + bare.len()..].to_vec())
    };
    let flag = |value| Some(Meta::Bool(value));
    assert_eq!(ends(&[]), (vec![1], vec![]));
    assert_eq!(ends(&[("add_bos_token", flag(false))]), (vec![], vec![]));
    assert_eq!(
        ends(&[
            ("add_bos_token", flag(false)),
            ("add_eos_token", flag(true))
        ]),
        (vec![], vec![2])
    );
    assert_eq!(
        ends(&[("add_bos_token", flag(true)), ("add_eos_token", flag(true))]),
        (vec![1], vec![2])
    );
    assert_eq!(ends(&[("bos_token_id", None)]), (vec![], vec![]));
}

#[test]
fn ends_of_an_answer_are_those_of_the_keys() {
    let home = Home::new();
    let files = |change: &[(&str, Option<Meta>)]| {
        Checkpoint::open(&home.file("m.gguf", change))
            .expect("a model")
            .files
    };
    let plain = files(&[]);
    assert_eq!(
        (
            plain.special.bos.as_str(),
            plain.special.eos.as_str(),
            plain.end_ids
        ),
        ("<s>", "</s>", vec![2])
    );
    assert_eq!(
        files(&[("eot_token_id", Some(Meta::U32(601)))]).end_ids,
        [2, 601]
    );
}

/// A list of the golden vocabulary with the value at `at` replaced.
fn replaced(key: &str, at: usize, value: Meta) -> Option<Meta> {
    let Meta::Array(mut all) = vocabulary()
        .remove(&format!("tokenizer.ggml.{key}"))
        .expect("a list")
    else {
        panic!("`{key}` is no list")
    };
    all[at] = value;
    Some(Meta::Array(all))
}

#[test]
fn what_cannot_be_or_is_not_done_is_refused_by_key() {
    let home = Home::new();
    let text = |text: &str| Some(Meta::String(text.into()));
    let refuses = |key: &str, value: Option<Meta>, words: &[&str]| {
        let words = [&["m.gguf", key], words].concat();
        refused(&home.file("m.gguf", &[(key, value)]), None, &words);
    };
    for kind in ["t5", "bert", "rwkv", "no_vocab", "replit"] {
        refuses(
            "model",
            text(kind),
            &["tokenizer.ggml.model", kind, "gpt2 and llama"],
        );
        assert_eq!(
            Checkpoint::open(&home.folder.path().join("m.gguf"))
                .err()
                .expect("a fault")
                .code()
                .id(),
            "Q0518"
        );
    }
    refuses("model", None, &["missing"]);
    refuses("scores", None, &["missing"]);
    refuses("tokens", None, &["missing"]);
    refuses("pre", text("llama-bpe"), &["llama-bpe"]);
    refuses(
        "scores",
        Some(Meta::Array(vec![Meta::F32(0.0); 7])),
        &["7 tokens", "604"],
    );
    refuses(
        "token_type",
        Some(Meta::Array(vec![Meta::I32(1); 605])),
        &["605 tokens", "604"],
    );
    refuses(
        "scores",
        replaced("scores", 300, Meta::F32(f32::NAN)),
        &["NaN", "300"],
    );
    refuses(
        "scores",
        Some(Meta::Array(vec![Meta::Bool(true); 604])),
        &[],
    );
    refuses(
        "token_type",
        replaced("token_type", 9, Meta::I32(7)),
        &["7"],
    );
    refuses(
        "tokens",
        replaced("tokens", 400, Meta::String("▁s".into())),
        &["▁s", "twice", "400"],
    );
    refuses("bos_token_id", Some(Meta::U32(604)), &["604"]);
    refuses("eos_token_id", Some(Meta::F32(1.5)), &[]);
    refuses("padding_token_id", Some(Meta::U32(9000)), &["9000"]);
    refuses("add_space_prefix", text("yes"), &[]);
    refuses(
        "remove_extra_whitespaces",
        Some(Meta::Bool(true)),
        &["true"],
    );
    refuses(
        "precompiled_charsmap",
        Some(Meta::Array(vec![Meta::U8(1)])),
        &[],
    );
    let change = [
        ("bos_token_id", None),
        ("add_bos_token", Some(Meta::Bool(true))),
    ];
    refused(
        &home.file("m.gguf", &change),
        None,
        &["add_bos_token", "bos_token_id", "missing"],
    );
}

#[test]
fn files_without_types_take_their_special_tokens_from_the_ids() {
    let home = Home::new();
    let tokenizer = tokenizer(&home.file("m.gguf", &[("token_type", None)]));
    let found = ids(&tokenizer, "<s>the weather</s>", false);
    assert_eq!((found.first(), found.last()), (Some(&1), Some(&2)));
    assert_eq!(
        tokenizer.decode(&found, true).expect("a text"),
        "the weather"
    );
}

#[test]
fn a_tokenizer_of_a_folder_goes_into_a_gguf_file_and_comes_back() {
    let home = Home::new();
    for prefix in [true, false] {
        let own =
            tokenizer(&home.file("m.gguf", &[("add_space_prefix", Some(Meta::Bool(prefix)))]));
        let folder = home.folder.path().join(format!("folder-{prefix}"));
        model(&folder, &config(), &tensors());
        own.save(folder.join("tokenizer.json"), false)
            .expect("a tokenizer");
        let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
        fs::write(folder.join("tokenizer_config.json"), settings.to_string()).expect("settings");
        let out = home.folder.path().join(format!("{prefix}.gguf"));
        let written = export::convert(
            &folder,
            &out,
            &held_as("nf4"),
            ElementType::F16,
            &mut |_, _| Ok(()),
        );
        assert!(written.expect("a file").notes.is_empty());
        agrees(&tokenizer(&out), prefix);
        let keys = Content::read(&mut File::open(&out).expect("a file"))
            .expect("a header")
            .metadata;
        assert_eq!(
            keys["tokenizer.ggml.model"].to_string().expect("a text"),
            "llama"
        );
        assert_eq!(ids(&tokenizer(&out), "a", true)[0], 1);
    }
}

#[test]
fn a_merged_file_keeps_the_tokenizer_of_its_base() {
    let home = Home::new();
    let (base, out) = (
        home.file("m.gguf", &[]),
        home.folder.path().join("merged.gguf"),
    );
    let adapter = golden("qlora_run/attn_r8/final_adapter");
    let into = export::Base::Original;
    let merged = export::merge(
        &base,
        &adapter,
        &out,
        into,
        &held_as("nf4"),
        ElementType::F16,
        &mut |_, _| Ok(()),
    );
    merged.expect("a merged model");
    agrees(&tokenizer(&out), true);
}

#[test]
fn a_space_that_llama_cpp_adds_and_the_tokenizer_does_not_is_told() {
    let home = Home::new();
    let folder = home.folder.path().join("folder");
    model(&folder, &config(), &tensors());
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).expect("settings");
    let path = folder.join("tokenizer.json");
    tokenizer(&home.file("m.gguf", &[]))
        .save(&path, false)
        .expect("a tokenizer");
    let mut json: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    fs::write(&path, json.to_string()).expect("a tokenizer");
    let convert = |out: &str| {
        let out = home.folder.path().join(out);
        export::convert(
            &folder,
            &out,
            &held_as("nf4"),
            ElementType::F16,
            &mut |_, _| Ok(()),
        )
        .map_err(|e| e.to_string())
    };
    let notes = convert("told.gguf").expect("a file").notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("prepend_scheme: first")),
        "{notes:?}"
    );
    json["normalizer"] = json!({"type": "NFKC"});
    fs::write(&path, json.to_string()).expect("a tokenizer");
    let fault = convert("refused.gguf").expect_err("it was written");
    assert!(
        fault.contains("NFKC") && fault.contains("tokenizer.json"),
        "{fault}"
    );
}
