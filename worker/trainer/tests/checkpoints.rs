//! Checkpoints whose files say different things: the right reading, or a refusal that names file,
//! tensor or key.

mod toy;

use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Meta;
use candle_core::{DType, Device, Tensor};
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::weights::Checkpoint;
use serde_json::{Value, json};
use toy::gguf::Gguf;
use toy::{
    HIDDEN, LAYERS, VOCABULARY, bare, config, differ, logits, model, ones, refused, save, sharded,
    tensors, values,
};

const PARTS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of another model of the same shape.
fn other() -> toy::Tensors {
    tensors()
        .into_iter()
        .map(|(name, tensor)| (name, (tensor * 0.5).expect("a tensor")))
        .collect()
}

#[test]
fn the_index_says_what_belongs_to_a_model() {
    let home = tempfile::tempdir().expect("a folder");
    let plain = values(
        &model(&home.path().join("plain"), &config(), &tensors()),
        None,
    );
    let right = sharded(&home.path().join("right"), &tensors(), &PARTS);
    assert_eq!(values(&right, None), plain);
    let named = sharded(
        &home.path().join("named"),
        &tensors(),
        &["b.safetensors", "a.safetensors", "c.safetensors"],
    );
    assert_eq!(values(&named, None), plain);
    save(&other(), &right.join("model-00001-of-00003.safetensors"));
    save(&other(), &right.join("model.fp16.safetensors"));
    assert_eq!(values(&right, None), plain, "a left-over file was read");
    save(&other(), &right.join("model.safetensors"));
    refused(
        &right,
        None,
        &["right/model.safetensors", INDEX, "two models"],
    );
}

#[test]
fn what_the_index_names_must_be_there() {
    let home = tempfile::tempdir().expect("a folder");
    let change = |name: &str, edit: &dyn Fn(&Path)| {
        let folder = sharded(&home.path().join(name), &tensors(), &PARTS);
        edit(&folder);
        folder
    };
    let without = change("without", &|f| {
        fs::remove_file(f.join(PARTS[1])).expect("removed")
    });
    refused(&without, None, &[PARTS[1], INDEX, "missing"]);
    let edit = |folder: &Path, edit: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let path = folder.join(INDEX);
        let mut index: Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("an index")).expect("JSON");
        edit(index["weight_map"].as_object_mut().expect("places"));
        fs::write(path, index.to_string()).expect("an index");
    };
    let norm = "model.norm.weight";
    let unnamed = change("unnamed", &|f| edit(f, &|map| drop(map.remove(norm))));
    refused(&unnamed, None, &[norm, INDEX, "does not name"]);
    let moved = change("moved", &|f| {
        edit(f, &|map| drop(map.insert(norm.into(), json!(PARTS[0]))))
    });
    refused(&moved, None, &[norm, PARTS[0], PARTS[1]]);
    let more = change("more", &|f| {
        edit(f, &|map| {
            drop(map.insert("a.weight".into(), json!(PARTS[0])))
        })
    });
    refused(&more, None, &["a.weight", PARTS[0], "missing"]);
    let outside = change("outside", &|f| {
        edit(f, &|map| {
            drop(map.insert(norm.into(), json!("../model.safetensors")))
        })
    });
    refused(&outside, None, &[norm, "../model.safetensors"]);
    let lost = change("lost", &|f| {
        fs::remove_file(f.join(INDEX)).expect("removed")
    });
    refused(&lost, None, &[PARTS[0], INDEX]);
    let empty = home.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    refused(&empty, None, &["empty/config.json", "missing"]);
    let pickle = bare(&home.path().join("pickle"), &config());
    fs::write(pickle.join("pytorch_model.bin"), b"x").expect("a file");
    refused(&pickle, None, &["pytorch_model.bin", "safetensors"]);
}

#[test]
fn tensors_that_the_configuration_does_not_explain_are_refused_by_name() {
    let home = tempfile::tempdir().expect("a folder");
    let with = |name: &str, dims: &[usize]| {
        let mut all = tensors();
        all.insert(name.into(), ones(dims, 0.5));
        model(&home.path().join("model"), &config(), &all)
    };
    for (name, dims, words) in [
        ("model.layers.0.self_attn.q_proj.bias", vec![HIDDEN], "bias"),
        ("model.layers.1.mlp.down_proj.bias", vec![HIDDEN], "bias"),
        (
            "model.layers.2.input_layernorm.weight",
            vec![HIDDEN],
            "num_hidden_layers 2",
        ),
        (
            "model.layers.0.self_attn.q_norm.weight",
            vec![16],
            "no part",
        ),
        ("model.layers.0.mlp.gate.weight", vec![8, HIDDEN], "no part"),
        (
            "model.layers.0.self_attn.v_proj.qweight",
            vec![8, HIDDEN],
            "quantized",
        ),
        ("score.weight", vec![2, HIDDEN], "no part"),
    ] {
        refused(
            &with(name, &dims),
            None,
            &[name, words, "model.safetensors"],
        );
    }
    // Old checkpoints have what follows from config.json once more.
    logits(
        &with("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]),
        None,
    )
    .expect("nothing of its own");
}

#[test]
fn sizes_that_differ_from_the_configuration_are_refused_with_both_numbers() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("model");
    for (key, value, tensor) in [
        ("vocab_size", 896, "lm_head.weight"),
        ("intermediate_size", 96, "down_proj.weight"),
        ("num_key_value_heads", 1, "k_proj.weight"),
        ("head_dim", 8, "k_proj.weight"),
    ] {
        let mut config = config();
        config[key] = value.into();
        refused(&model(&folder, &config, &tensors()), None, &[tensor, key]);
    }
    let mut fewer = config();
    fewer["vocab_size"] = 800.into();
    refused(
        &model(&folder, &fewer, &tensors()),
        None,
        &["900", "800", "vocab_size"],
    );
    let mut config = config();
    config["num_hidden_layers"] = (LAYERS + 1).into();
    refused(
        &model(&folder, &config, &tensors()),
        None,
        &["model.layers.2.", "is missing"],
    );
}

#[test]
fn a_head_is_there_or_tied_and_another_one_beside_a_tied_is_used_and_told() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("model");
    let mut headless = tensors();
    headless.remove("lm_head.weight");
    let mut unsaid = config();
    unsaid
        .as_object_mut()
        .expect("keys")
        .remove("tie_word_embeddings");
    for config in [config(), unsaid] {
        refused(
            &model(&folder, &config, &headless),
            None,
            &["lm_head.weight", "tie_word_embeddings"],
        );
    }
    let mut tied = config();
    tied["tie_word_embeddings"] = true.into();
    let (alone, notes) = logits(&model(&folder, &tied, &headless), None).expect("logits");
    assert!(notes.is_empty());
    let own = values(&model(&folder, &config(), &tensors()), None);
    let (beside, notes) = logits(&model(&folder, &tied, &tensors()), None).expect("logits");
    assert_eq!(own, beside);
    assert!(differ(&alone, &own) > 1e-2, "both heads are alike");
    let planned = qlora_trainer::weights::shape_of(&folder).expect("a shape");
    assert!(!planned.tied_embeddings, "the head needs memory");
    assert!(
        notes
            .iter()
            .any(|note| note.contains("lm_head.weight") && note.contains("tie_word_embeddings"))
    );
    headless.insert(
        "lm_head.weight".into(),
        headless["model.embed_tokens.weight"].clone(),
    );
    let (_, notes) = logits(&model(&folder, &tied, &headless), None).expect("logits");
    assert!(
        notes.is_empty(),
        "a head that is the embedding says nothing new: {notes:?}"
    );
}

#[test]
fn a_quantization_that_the_files_cannot_give_is_refused_before_they_are_read() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = model(&home.path().join("model"), &config(), &tensors());
    let nf4 = home.path().join("nf4");
    let convert = |out: &Path, element| {
        let held = toy::held_as("nf4");
        export::convert(&folder, out, &held, element, &mut |_, _| Ok(())).expect("an export")
    };
    convert(&nf4, ElementType::F16);
    let file = gguf(home.path());
    for (path, asked, refused) in [
        (&folder, "gguf", "is no GGUF file"),
        (&nf4, "gguf", "is no GGUF file"),
        (&nf4, "none", "in NF4 only"),
        (&file, "nf4", "a second time"),
    ] {
        let fault = Checkpoint::open_as(path, &toy::held_as(asked))
            .err()
            .unwrap_or_else(|| panic!("{asked} of {} was taken", path.display()));
        assert!(
            fault.to_string().contains(refused) && fault.code().id() == "Q0103",
            "{fault}"
        );
    }
    for (path, asked) in [
        (&folder, ["auto", "nf4", "none"].as_slice()),
        (&nf4, &["auto", "nf4"]),
        (&file, &["auto", "gguf", "none"]),
    ] {
        for asked in asked {
            assert!(Checkpoint::open_as(path, &toy::held_as(asked)).is_ok());
        }
    }
    values(&nf4, None);
}

#[test]
fn ends_of_an_answer_are_tokens_of_the_model() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("model");
    let mut beyond = config();
    beyond["eos_token_id"] = json!([2, VOCABULARY]);
    let fault = refused(
        &model(&folder, &beyond, &tensors()),
        None,
        &["eos_token_id", "900", "vocab_size", "config.json"],
    );
    assert!(!fault.contains("generation_config.json"), "{fault}");
    model(&folder, &config(), &tensors());
    let path = folder.join("generation_config.json");
    fs::write(&path, r#"{"eos_token_id": 4000000}"#).expect("a file");
    refused(&folder, None, &["generation_config.json", "4000000"]);
    fs::write(&path, r#"{"eos_token_id": 899}"#).expect("a file");
    values(&folder, None);
}

#[test]
fn element_types_and_numbers_that_are_none_are_refused_by_tensor() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("model");
    let name = "model.layers.1.mlp.up_proj.weight";
    for dtype in [DType::F64, DType::U8, DType::I64] {
        let mut all = tensors();
        all.insert(name.into(), all[name].to_dtype(dtype).expect("a tensor"));
        let fault = refused(
            &model(&folder, &config(), &all),
            None,
            &[name, "element type", "model.safetensors"],
        );
        assert!(fault.contains("NF4"), "{fault}");
    }
    for name in [name, "model.embed_tokens.weight", "model.norm.weight"] {
        for (bad, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let mut all = tensors();
                let tensor = &all[name];
                let mut values: Vec<f32> = tensor
                    .flatten_all()
                    .and_then(|t| t.to_vec1())
                    .expect("values");
                values[7] = bad;
                let broken = Tensor::from_vec(values, tensor.dims(), &Device::Cpu)
                    .and_then(|t| t.to_dtype(dtype));
                all.insert(name.into(), broken.expect("a tensor"));
                let folder = model(&folder, &config(), &all);
                refused(&folder, None, &[name, word, "element 7"]);
                let out = home.path().join("out.gguf");
                let held = toy::held_as("nf4");
                let exported =
                    export::convert(&folder, &out, &held, ElementType::F32, &mut |_, _| Ok(()));
                assert!(
                    exported
                        .expect_err("it was exported")
                        .to_string()
                        .contains(name)
                );
                assert!(!out.exists());
            }
        }
    }
}

fn gguf(home: &Path) -> std::path::PathBuf {
    let out = home.join("whole.gguf");
    if !out.exists() {
        let folder = model(&home.join("base"), &config(), &tensors());
        export::convert(
            &folder,
            &out,
            &toy::held_as("nf4"),
            ElementType::F32,
            &mut |_, _| Ok(()),
        )
        .expect("a GGUF file");
    }
    out
}

#[test]
fn a_part_of_a_split_gguf_is_no_model() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = gguf(home.path());
    let plain = values(&whole, None);
    let all = Gguf::of(&whole).tensors.len() as i32;
    let split = |gguf: Gguf, part: u16| {
        gguf.with("split.no", Meta::U16(part))
            .with("split.count", Meta::U16(2))
            .with("split.tensors.count", Meta::I32(all))
    };
    let (first, second) = (
        home.path().join("m-00001-of-00002.gguf"),
        home.path().join("m-00002-of-00002.gguf"),
    );
    split(Gguf::of(&whole).without("output.weight"), 0).write(&first);
    let mut rest = split(Gguf::of(&whole), 1);
    rest.tensors.retain(|(name, _)| name == "output.weight");
    rest.metadata.retain(|(key, _)| key.starts_with("split."));
    rest.write(&second);
    refused(&first, None, &["part 1 of 2", "llama-gguf-split --merge"]);
    refused(&second, None, &["part 2 of 2", "llama-gguf-split --merge"]);
    let out = home.path().join("merged.gguf");
    let adapter = toy::golden("qlora_run/attn_r8/final_adapter");
    let held = toy::held_as("gguf");
    let merged = export::merge(
        &first,
        &adapter,
        &out,
        export::Base::Original,
        &held,
        ElementType::F16,
        &mut |_, _| Ok(()),
    );
    assert!(
        merged
            .expect_err("a part was merged")
            .to_string()
            .contains("part 1 of 2")
    );
    // A file that was written in one part says so, and is whole.
    let one = home.path().join("one.gguf");
    Gguf::of(&whole)
        .with("split.count", Meta::U16(1))
        .with("split.no", Meta::U16(0))
        .write(&one);
    assert_eq!(values(&one, None), plain);
}

#[test]
fn what_a_gguf_says_is_done_or_refused_by_name() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = gguf(home.path());
    let path = home.path().join("changed.gguf");
    for (key, value) in [
        ("llama.rope.dimension_count", Meta::U32(8)),
        ("llama.rope.scaling.type", Meta::String("dynamic".into())),
        ("llama.attention.scale", Meta::F32(0.5)),
        ("llama.expert_count", Meta::U32(8)),
        ("llama.attention.value_length", Meta::U32(32)),
        ("llama.vocab_size", Meta::U32(800)),
        ("llama.block_count", Meta::String("2".into())),
        ("general.type", Meta::String("adapter".into())),
        ("general.architecture", Meta::String("gptneox".into())),
    ] {
        let word = if key == "general.architecture" {
            "gptneox"
        } else {
            key
        };
        Gguf::of(&whole).with(key, value).write(&path);
        refused(&path, None, &[word, "changed.gguf"]);
    }
    Gguf::of(&whole)
        .with("llama.expert_count", Meta::U32(0))
        .write(&path);
    assert_eq!(values(&path, None), values(&whole, None));
    for name in ["blk.0.ffn_gate_inp.weight", "blk.2.attn_norm.weight"] {
        Gguf::of(&whole)
            .and(name, &ones(&[HIDDEN], 1.0))
            .write(&path);
        refused(&path, None, &[name, "changed.gguf"]);
    }
    // A bias of one projection says that all of its kind have one.
    Gguf::of(&whole)
        .and("blk.0.attn_q.bias", &ones(&[HIDDEN], 1.0))
        .write(&path);
    refused(&path, None, &["blk.0.attn_k.bias", "is missing"]);
    Gguf::of(&whole)
        .and("blk.1.attn_v.weight", &ones(&[HIDDEN, HIDDEN], 1.0))
        .write(&path);
    refused(
        &path,
        None,
        &["blk.1.attn_v.weight", "[64, 64]", "[32, 64]"],
    );
    Gguf::of(&whole).without("blk.1.ffn_up.weight").write(&path);
    refused(&path, None, &["blk.1.ffn_up.weight", "is missing"]);
    Gguf::of(&whole)
        .and("output_norm.weight", &ones(&[HIDDEN], f64::NAN))
        .write(&path);
    refused(&path, None, &["output_norm.weight", "NaN"]);
}

#[test]
fn a_model_comes_back_from_its_gguf_file() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = gguf(home.path());
    assert!(
        differ(
            &values(&whole, None),
            &values(&home.path().join("base"), None)
        ) < 1e-4
    );
    assert_eq!(values(&whole, None).len() % VOCABULARY, 0);
}
