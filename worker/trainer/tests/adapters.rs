//! Adapters as PEFT writes them: every key is carried out, or refused by name.

mod peft;
mod toy;

use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Tensor};
use peft::{CHANGING, INERT, WRITTEN};
use serde_json::{Value, json};
use toy::{Tensors, config, differ, golden, model, ones, refused, tensors, values};

const LINEAR: [(&str, usize, usize); 4] = [
    ("self_attn.q_proj", 64, 64),
    ("self_attn.v_proj", 32, 64),
    ("mlp.up_proj", 128, 64),
    ("mlp.down_proj", 64, 128),
];

struct Home {
    folder: tempfile::TempDir,
    base: PathBuf,
}

/// Values that differ from each other, the same every time.
fn wave(dims: (usize, usize), seed: usize) -> Tensor {
    let values: Vec<f32> = (0..dims.0 * dims.1)
        .map(|i| (((i + seed) * 37 % 101) as f32 / 50.0 - 1.0) * 0.2)
        .collect();
    Tensor::from_vec(values, dims, &candle_core::Device::Cpu).expect("a tensor")
}

/// Factors of rank 4 for `targets`; `strength` multiplies B.
fn factors(targets: &[&str], strength: impl Fn(&str) -> f64) -> Tensors {
    let mut all = Tensors::new();
    for layer in 0..2 {
        for (seed, (module, out, inn)) in LINEAR.iter().enumerate() {
            let name = module.rsplit('.').next().expect("a name");
            if targets.contains(&name) {
                let path = format!("base_model.model.model.layers.{layer}.{module}");
                all.insert(
                    format!("{path}.lora_A.weight"),
                    wave((4, *inn), seed + layer),
                );
                let b = (wave((*out, 4), 7 * seed + layer) * strength(name)).expect("a tensor");
                all.insert(format!("{path}.lora_B.weight"), b);
            }
        }
    }
    all
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let base = model(&folder.path().join("base"), &config(), &tensors());
        Self { folder, base }
    }

    /// PEFT's settings of `tests/golden`, with rank 4 and alpha 8 for `q_proj` and `v_proj`, and
    /// `change`.
    fn adapter(&self, change: Value, tensors: &Tensors) -> PathBuf {
        let text = fs::read_to_string(golden(
            "qlora_run/attn_r8/final_adapter/adapter_config.json",
        ))
        .expect("settings");
        let mut settings: Value = serde_json::from_str(&text).expect("JSON");
        let own = json!({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]});
        for part in [&own, &change] {
            settings
                .as_object_mut()
                .expect("keys")
                .extend(part.as_object().expect("keys").clone());
        }
        let folder = self.folder.path().join("adapter");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("adapter_config.json"), settings.to_string()).expect("settings");
        toy::save(tensors, &folder.join("adapter_model.safetensors"));
        folder
    }

    /// An adapter with the settings `keys` and no others.
    fn alone(&self, keys: &Value, tensors: &Tensors) -> PathBuf {
        let folder = self.adapter(json!({}), tensors);
        fs::write(folder.join("adapter_config.json"), keys.to_string()).expect("settings");
        folder
    }

    fn logits(&self, change: Value, tensors: &Tensors) -> Vec<f32> {
        values(&self.base, Some(&self.adapter(change, tensors)))
    }

    #[track_caller]
    fn refused(&self, change: Value, tensors: &Tensors, words: &[&str]) {
        let fault = refused(&self.base, Some(&self.adapter(change, tensors)), words);
        assert!(!fault.contains("another base model"), "{fault}");
    }
}

fn plain() -> Tensors {
    factors(&["q_proj", "v_proj"], |_| 1.0)
}

#[test]
fn strengths_and_ranks_by_module_are_those_of_the_patterns() {
    let home = Home::new();
    let base = values(&home.base, None);
    let twice = |name: &str| if name == "v_proj" { 4.0 } else { 1.0 };
    let twin = home.logits(json!({}), &factors(&["q_proj", "v_proj"], twice));
    assert!(differ(&twin, &base) > 1e-2, "the adapter does nothing");
    for pattern in [
        json!({"v_proj": 32}),
        json!({r"self_attn\.v_proj": 32.0}),
        json!({".*v_proj": 32}),
    ] {
        assert!(
            differ(
                &home.logits(json!({"alpha_pattern": pattern}), &plain()),
                &twin
            ) < 1e-4,
            "{pattern}"
        );
    }
    // Rank 2 of v_proj: the scale is 8 / 2, twice that of the others.
    let mut short = plain();
    for (name, tensor) in &mut short {
        if name.contains("v_proj.lora_A") {
            *tensor = tensor
                .narrow(0, 0, 2)
                .and_then(|t| t.contiguous())
                .expect("two rows");
        } else if name.contains("v_proj.lora_B") {
            *tensor = tensor
                .narrow(1, 0, 2)
                .and_then(|t| t.contiguous())
                .expect("two columns");
        }
    }
    let mut padded = short.clone();
    for (name, tensor) in &mut padded {
        if name.contains("v_proj.lora_A") {
            *tensor = tensor.pad_with_zeros(0, 0, 2).expect("four rows");
        } else if name.contains("v_proj.lora_B") {
            *tensor =
                (tensor.pad_with_zeros(1, 0, 2).expect("four columns") * 2.0).expect("a tensor");
        }
    }
    let wanted = home.logits(json!({}), &padded);
    assert!(
        differ(
            &home.logits(json!({"rank_pattern": {"v_proj": 2}}), &short),
            &wanted
        ) < 1e-4
    );
    home.refused(
        json!({"rank_pattern": {"v_proj": 3}}),
        &short,
        &["v_proj.lora_A.weight", "[2, 64]", "[3, 64]"],
    );
    home.refused(
        json!({"rank_pattern": {"k_proj": 2}}),
        &plain(),
        &["rank_pattern", "k_proj"],
    );
    home.refused(
        json!({"alpha_pattern": {"v_proj": 1, ".*proj": 2}}),
        &plain(),
        &["alpha_pattern", "two entries"],
    );
    home.refused(
        json!({"alpha_pattern": {"v_proj": "8"}}),
        &plain(),
        &["alpha_pattern", "\"8\""],
    );
}

#[test]
fn modules_are_named_as_peft_matches_them() {
    let home = Home::new();
    let wanted = home.logits(json!({}), &plain());
    for targets in [
        json!(r".*self_attn\.(q|v)_proj$"),
        json!(r"model\.layers\.\d+\.self_attn\.(?!k|o)\w+_proj"),
        json!([
            "self_attn.q_proj",
            "model.layers.0.self_attn.v_proj",
            "model.layers.1.self_attn.v_proj"
        ]),
    ] {
        assert_eq!(
            home.logits(json!({"target_modules": targets}), &plain()),
            wanted,
            "{targets}"
        );
    }
    let excluded =
        json!({"target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": ["k_proj"]});
    assert_eq!(home.logits(excluded, &plain()), wanted);
    // One block only.
    let mut first = plain();
    first.retain(|name, _| name.contains("layers.0."));
    let mut silent = plain();
    for (name, tensor) in &mut silent {
        if name.contains("layers.1.") {
            *tensor = tensor.zeros_like().expect("zeros");
        }
    }
    let wanted = home.logits(json!({}), &silent);
    for change in [
        json!({"layers_to_transform": [0]}),
        json!({"layers_to_transform": 0, "layers_pattern": "layers"}),
    ] {
        assert_eq!(home.logits(change, &first), wanted);
    }
    home.refused(
        json!({"layers_to_transform": [2]}),
        &first,
        &["layers_to_transform", "2 blocks"],
    );
    home.refused(
        json!({"target_modules": ["q_proj", "lm_head"]}),
        &plain(),
        &["lm_head", "target_modules"],
    );
    home.refused(
        json!({"target_modules": "(unclosed"}),
        &plain(),
        &["target_modules"],
    );
    home.refused(
        json!({"target_modules": "nothing"}),
        &plain(),
        &["target_modules"],
    );
    home.refused(
        json!({"target_modules": "all-linear"}),
        &plain(),
        &["lacks", "down_proj"],
    );
}

#[test]
fn keys_that_are_not_done_are_refused_by_name() {
    let home = Home::new();
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("target_parameters", json!(["mlp.experts"])),
        ("alora_invocation_tokens", json!([5])),
        ("use_qalora", json!(true)),
        ("new_in_peft", json!("strong")),
        ("r", json!("4")),
        ("r", json!(0)),
        ("lora_alpha", json!("8")),
        ("use_rslora", json!("yes")),
    ] {
        home.refused(json!({ key: value }), &plain(), &[key]);
    }
    for (beginning, way_out) in [
        ("zzz", "correct the name"),
        ("pissa", "changed base"),
        ("pissa_niter_16", "changed base"),
    ] {
        home.refused(
            json!({"init_lora_weights": beginning}),
            &plain(),
            &[beginning, way_out],
        );
    }
    let wanted = home.logits(json!({}), &plain());
    let inert = json!({"new_in_peft": null, "init_lora_weights": "gaussian", "peft_version": "1", "revision": "main"});
    assert_eq!(home.logits(inert, &plain()), wanted);
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn what_every_release_of_peft_writes_is_taken_at_its_defaults() {
    let home = Home::new();
    let wanted = home.logits(json!({}), &plain());
    let mut keys = json!({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]});
    for (release, added) in WRITTEN {
        keys.as_object_mut()
            .expect("keys")
            .extend(parsed(added).as_object().expect("keys").clone());
        assert_eq!(
            values(&home.base, Some(&home.alone(&keys, &plain()))),
            wanted,
            "{release}"
        );
    }
}

#[test]
fn a_value_of_peft_that_changes_nothing_is_taken_and_any_other_is_refused_by_its_key() {
    let home = Home::new();
    let wanted = home.logits(json!({}), &plain());
    for (key, value) in INERT {
        assert_eq!(
            home.logits(json!({ key: parsed(value) }), &plain()),
            wanted,
            "{key}: {value}"
        );
    }
    for (key, value) in CHANGING {
        home.refused(json!({ key: parsed(value) }), &plain(), &[key, "adapter"]);
    }
}

#[test]
fn tensors_and_settings_of_an_adapter_agree() {
    let home = Home::new();
    let wanted = home.logits(json!({}), &plain());
    home.refused(
        json!({}),
        &factors(&["q_proj", "v_proj", "up_proj"], |_| 1.0),
        &["up_proj", "explain"],
    );
    home.refused(
        json!({}),
        &factors(&["q_proj"], |_| 1.0),
        &["lacks", "v_proj"],
    );
    let mut biased = plain();
    biased.insert(
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias".into(),
        ones(&[64], 0.5),
    );
    home.refused(json!({}), &biased, &["q_proj.lora_B.bias"]);
    let own = |name: &str| -> Tensors {
        plain()
            .into_iter()
            .map(|(key, t)| (key.replace(".weight", &format!(".{name}.weight")), t))
            .collect()
    };
    assert_eq!(home.logits(json!({}), &own("default")), wanted);
    let mut two = own("default");
    two.extend(own("other"));
    home.refused(json!({}), &two, &["default", "other"]);
    let broken: Tensors = plain()
        .into_iter()
        .map(|(key, t)| (key, (t * f64::NAN).expect("a tensor")))
        .collect();
    home.refused(json!({}), &broken, &["NaN", "lora_"]);
    let double = plain()
        .into_iter()
        .map(|(key, t)| (key, t.to_dtype(DType::F64).expect("a tensor")))
        .collect();
    home.refused(json!({}), &double, &["F64"]);
    let folder = home.adapter(json!({}), &plain());
    let weights = folder.join("adapter_model.safetensors");
    fs::rename(&weights, folder.join("adapter_model.bin")).expect("renamed");
    refused(
        &home.base,
        Some(&folder),
        &["adapter_model.bin", "safetensors"],
    );
    fs::remove_file(folder.join("adapter_model.bin")).expect("removed");
    refused(
        &home.base,
        Some(&folder),
        &["adapter_model.safetensors", "has no"],
    );
    fs::remove_file(folder.join("adapter_config.json")).expect("removed");
    refused(
        &home.base,
        Some(&folder),
        &["adapter_config.json", "has no"],
    );
}
