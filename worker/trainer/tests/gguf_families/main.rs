//! GGUF files of every family: what is written is read back as the same model, and llama.cpp
//! computes the same from it.

mod home;
mod refusals;
#[path = "../toy/mod.rs"]
mod toy;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_trainer::weights::Checkpoint;
use serde_json::{Value, json};

use home::{Home, family_tensors};
use toy::gguf::Gguf;
use toy::{differ, values};

/// What a merged or converted model may differ by.
const TOLERANCE: f32 = 5e-5;
/// What log-probabilities of llama.cpp may differ by from ours.
const OF_LLAMA_CPP: Option<f32> = Some(1e-4);
/// On a CPU, llama.cpp takes GELU from a table of 16 bits.
const OF_GELU: Option<f32> = Some(2e-3);

/// A model as GGUF, merged with an adapter from a folder and from that file, and the adapter alone.
fn comes_back(family: &'static str, changes: Value, llama_cpp: Option<f32>) {
    let home = Home::new(family, changes);
    let (adapter, file) = (home.adapter(), home.convert());
    let plain = values(&home.base, None);
    let difference = differ(&values(&file, None), &plain);
    println!("parity: {family}, read back from GGUF, logits {difference:.1e}");
    assert!(difference < TOLERANCE, "{family}: {difference}");
    let print = |path: &Path| {
        let checkpoint = Checkpoint::open(path).expect("a model");
        checkpoint.fingerprint().expect("a fingerprint")
    };
    assert_eq!(print(&file), print(&home.base));
    let adapted = values(&home.base, Some(&adapter));
    let effect = differ(&adapted, &plain);
    let noticed = 10.0 * llama_cpp.unwrap_or(TOLERANCE);
    assert!(
        effect > noticed,
        "the adapter does next to nothing: {effect}"
    );
    assert!(differ(&adapted, &values(&file, Some(&adapter))) < TOLERANCE);
    let merged = [
        home.merge(&home.base, &adapter, "merged.gguf"),
        home.merge(&file, &adapter, "again.gguf"),
    ];
    for merged in &merged {
        let difference = differ(&values(merged, None), &adapted);
        assert!(difference < TOLERANCE, "{merged:?}: {difference}");
    }
    let alone = home.convert_adapter(&adapter).expect("an adapter");
    if let Some(tolerance) = llama_cpp {
        home.llama_cpp_agrees(tolerance, None, &[&file]);
        home.llama_cpp_agrees(tolerance, Some(&adapter), &[&file, &alone]);
        home.llama_cpp_agrees(tolerance, Some(&adapter), &[&merged[0]]);
    }
}

macro_rules! comes_back {
    ($($name:ident: $family:literal, $changes:tt, $llama_cpp:ident;)*) => {$(
        #[test]
        fn $name() {
            comes_back($family, json!($changes), $llama_cpp);
        }
    )*};
}

comes_back! {
    llama_tied: "llama_tied", {}, OF_LLAMA_CPP;
    llama_with_biases: "llama_biases", {}, OF_LLAMA_CPP;
    mistral_with_heads_of_their_own_size: "mistral_head_dim", {}, OF_LLAMA_CPP;
    // llama.cpp has no window for it.
    mistral_with_a_window: "mistral_head_dim", {"sliding_window": 8}, None;
    llama_scaled_by_a_factor: "llama_tied",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}, OF_LLAMA_CPP;
    qwen2: "qwen2", {}, OF_LLAMA_CPP;
    qwen2_with_yarn: "qwen2_yarn", {}, OF_LLAMA_CPP;
    qwen2_with_yarn_and_its_own_attention_factor: "qwen2_yarn",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3,
            "original_max_position_embeddings": 64, "rope_theta": 1000000.0}}, OF_LLAMA_CPP;
    qwen3: "qwen3", {}, OF_LLAMA_CPP;
    smollm3: "smollm3", {}, OF_LLAMA_CPP;
    granite: "granite", {}, OF_LLAMA_CPP;
    granite_without_a_scale_of_logits: "granite", {"logits_scaling": null}, OF_LLAMA_CPP;
    granite_with_the_scaling_of_llama3: "granite",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}}, OF_LLAMA_CPP;
    phi3: "phi3", {}, OF_LLAMA_CPP;
    phi3_that_rotates_a_part_of_a_head: "phi3_partial", {}, OF_LLAMA_CPP;
    // llama.cpp has no window for it.
    phi3_with_a_window: "phi3", {"sliding_window": 8}, None;
    phi3_with_longrope: "phi3", {"original_max_position_embeddings": 40, "rope_parameters":
        {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]}}, OF_LLAMA_CPP;
    gemma2: "gemma2", {"query_pre_attn_scalar": 32}, OF_GELU;
    gemma2_with_other_blocks_and_caps: "gemma2", {"query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0, "layer_types":
        ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]}, OF_GELU;
    gemma3: "gemma3", {"query_pre_attn_scalar": 32}, OF_GELU;
    gemma3_without_windows: "gemma3", {"query_pre_attn_scalar": 32, "final_logit_softcapping": 5.0,
        "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]}, OF_GELU;
}

#[test]
fn a_window_that_llama_cpp_does_not_compute_is_told() {
    for family in ["mistral_head_dim", "phi3"] {
        let notes = |window: Value| {
            let home = Home::new(family, json!({"sliding_window": window}));
            home.try_convert().expect("a GGUF file")
        };
        assert_eq!(notes(Value::Null), [""; 0]);
        assert_eq!(notes(json!(512)), [""; 0], "no sequence is longer");
        let told = notes(json!(8));
        assert!(
            matches!(&told[..], [note] if note.contains("sliding_window") && note.contains(" 8 ")),
            "{told:?}"
        );
    }
}

/// Rows of queries and keys keep their order where llama.cpp does not rotate neighbors, and norms of
/// 1 + w are held as that sum.
#[test]
fn rows_and_norms_lie_as_each_graph_reads_them() {
    for (family, changes, moved, whole) in [
        ("llama_tied", json!({}), true, 0.0),
        ("smollm3", json!({}), true, 0.0),
        ("granite", json!({}), true, 0.0),
        ("qwen2", json!({}), false, 0.0),
        ("qwen3", json!({}), false, 0.0),
        ("gemma2", json!({"query_pre_attn_scalar": 32}), false, 1.0),
        ("gemma3", json!({"query_pre_attn_scalar": 32}), false, 1.0),
    ] {
        let home = Home::new(family, changes);
        let (file, folder) = (Gguf::of(&home.convert()), family_tensors(family));
        let floats = |tensor: &Tensor| -> Vec<f32> {
            let flat = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all());
            flat.and_then(|t| t.to_vec1()).expect("values")
        };
        let of_file = |name: &str| {
            let found = file.tensors.iter().find(|(known, _)| known == name);
            let (_, tensor) = found.expect("a tensor");
            floats(&tensor.dequantize(&Device::Cpu).expect("a tensor"))
        };
        let queries = floats(&folder["model.layers.0.self_attn.q_proj.weight"]);
        assert_eq!(of_file("blk.0.attn_q.weight") != queries, moved, "{family}");
        let values = floats(&folder["model.layers.0.self_attn.v_proj.weight"]);
        assert_eq!(of_file("blk.0.attn_v.weight"), values, "{family}");
        let norm: Vec<f32> = floats(&folder["model.norm.weight"]);
        let wanted: Vec<f32> = norm.iter().map(|weight| weight + whole).collect();
        assert_eq!(of_file("output_norm.weight"), wanted, "{family}");
    }
}
