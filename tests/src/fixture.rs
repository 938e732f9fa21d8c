//! A random model of the Llama architecture with the golden tokenizer, and rows to train it on.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use qlora_testkit::golden;
use serde_json::json;

const HIDDEN: usize = 64;
const FFN: usize = 128;
const VOCABULARY: usize = 900;
const KV: usize = 32;

/// Writes a Hugging Face folder with seeded weights and returns its path.
///
/// # Panics
/// The folder cannot be written.
pub fn tiny_model(folder: &Path) -> PathBuf {
    let path = folder.join("tiny");
    fs::create_dir_all(&path).expect("a folder for the model");
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 1024, "tie_word_embeddings": false, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2
    });
    fs::write(path.join("config.json"), config.to_string()).expect("a configuration");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("chat/tokenizer").join(name), path.join(name)).expect("a tokenizer");
    }
    fs::copy(
        golden("chat/chatml_tools.jinja"),
        path.join("chat_template.jinja"),
    )
    .expect("a template");
    let mut seed = 1u64;
    let mut matrix = |rows: usize, cols: usize| {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.08
        };
        let values: Vec<f32> = (0..rows * cols).map(|_| next()).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).expect("a matrix")
    };
    let mut tensors = HashMap::new();
    tensors.insert(
        "model.embed_tokens.weight".to_owned(),
        matrix(VOCABULARY, HIDDEN),
    );
    tensors.insert("lm_head.weight".to_owned(), matrix(VOCABULARY, HIDDEN));
    let ones = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).expect("ones");
    tensors.insert("model.norm.weight".to_owned(), ones.clone());
    for layer in 0..2 {
        let shapes = [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV, HIDDEN),
            ("self_attn.v_proj", KV, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", FFN, HIDDEN),
            ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ];
        for (name, rows, cols) in shapes {
            tensors.insert(
                format!("model.layers.{layer}.{name}.weight"),
                matrix(rows, cols),
            );
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), ones.clone());
        }
    }
    candle_core::safetensors::save(&tensors, path.join("model.safetensors")).expect("weights");
    path
}

/// Rows of small tool-calling conversations.
pub fn conversations(rows: usize) -> String {
    let cities = ["Oslo", "Rome", "Lima", "Cairo", "Quito"];
    let row = |i: usize| {
        let city = cities[i % cities.len()];
        json!({
            "messages": [
                {"role": "user", "content": format!("Weather in {city} for {} days?", i % 7 + 1)},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"type": "function", "function": {"name": "weather", "arguments": {"city": city, "days": i % 7 + 1}}}
                ]}
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "description": "Forecast", "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
                "required": ["city", "days"]
            }}}]
        })
        .to_string()
    };
    (0..rows).map(row).collect::<Vec<_>>().join("\n") + "\n"
}
