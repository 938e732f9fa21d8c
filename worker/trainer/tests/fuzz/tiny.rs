//! A model of the Llama architecture in a few kilobytes, as a folder and as a GGUF file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value as Key};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use qlora_config::ModelConfig;
use qlora_testkit::resolved;
use qlora_trainer::bench;
use serde_json::{Value, json};

use crate::is_told;

const HIDDEN: usize = 32;
const KV: usize = 16;
const TOKENS: usize = 40;

/// Its tensors, by their names in a folder and in a GGUF file, with (out, in).
const TENSORS: [(&str, &str, usize, usize); 9] = [
    ("model.embed_tokens", "token_embd", TOKENS, HIDDEN),
    ("lm_head", "output", TOKENS, HIDDEN),
    (
        "model.layers.0.self_attn.q_proj",
        "blk.0.attn_q",
        HIDDEN,
        HIDDEN,
    ),
    (
        "model.layers.0.self_attn.k_proj",
        "blk.0.attn_k",
        KV,
        HIDDEN,
    ),
    (
        "model.layers.0.self_attn.v_proj",
        "blk.0.attn_v",
        KV,
        HIDDEN,
    ),
    (
        "model.layers.0.self_attn.o_proj",
        "blk.0.attn_output",
        HIDDEN,
        HIDDEN,
    ),
    (
        "model.layers.0.mlp.gate_proj",
        "blk.0.ffn_gate",
        HIDDEN,
        HIDDEN,
    ),
    ("model.layers.0.mlp.up_proj", "blk.0.ffn_up", HIDDEN, HIDDEN),
    (
        "model.layers.0.mlp.down_proj",
        "blk.0.ffn_down",
        HIDDEN,
        HIDDEN,
    ),
];
const NORMS: [(&str, &str); 3] = [
    ("model.norm", "output_norm"),
    ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
    ("model.layers.0.post_attention_layernorm", "blk.0.ffn_norm"),
];

pub fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": TOKENS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": false, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2
    })
}

/// Every tensor, under both of its names.
fn tensors() -> Vec<(String, String, Tensor)> {
    let matrices = TENSORS.iter().map(|&(name, short, rows, cols)| {
        let values = (0..rows * cols).map(|i| ((i * 7 + name.len()) % 13) as f32 / 100.0 - 0.06);
        let matrix = Tensor::from_vec(values.collect::<Vec<f32>>(), (rows, cols), &Device::Cpu);
        (name, short, matrix.expect("a matrix"))
    });
    let norms = NORMS.iter().map(|&(name, short)| {
        let norm = Tensor::ones(HIDDEN, DType::F32, &Device::Cpu);
        (name, short, norm.expect("a norm"))
    });
    let named =
        |(name, short, tensor)| (format!("{name}.weight"), format!("{short}.weight"), tensor);
    matrices.chain(norms).map(named).collect()
}

/// The bytes of a safetensors file.
pub fn safetensors(folder: &Path) -> Vec<u8> {
    let all: HashMap<String, Tensor> = tensors()
        .into_iter()
        .map(|(name, _, tensor)| (name, tensor))
        .collect();
    let path = folder.join("seed.safetensors");
    candle_core::safetensors::save(&all, &path).expect("a file of tensors");
    let bytes = std::fs::read(&path).expect("bytes");
    std::fs::remove_file(&path).expect("the file goes");
    bytes
}

/// The bytes of a GGUF file.
pub fn gguf() -> Vec<u8> {
    let quantized = |tensor: &Tensor| {
        let dtype = if tensor.rank() == 1 {
            GgmlDType::F32
        } else {
            GgmlDType::Q8_0
        };
        QTensor::quantize(tensor, dtype).expect("blocks")
    };
    let tensors: Vec<_> = tensors()
        .into_iter()
        .map(|(_, name, tensor)| (name, quantized(&tensor)))
        .collect();
    let keys = keys();
    let keys: Vec<_> = keys.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &keys, &tensors).expect("a GGUF file");
    bytes.into_inner()
}

fn keys() -> Vec<(&'static str, Key)> {
    let text = |text: &str| Key::String(text.into());
    let letters = (0..TOKENS - 3).map(|i| char::from(b'A' + i as u8).to_string());
    let tokens = ["<unk>", "<s>", "</s>"]
        .map(str::to_owned)
        .into_iter()
        .chain(letters);
    let kind = |id| {
        Key::I32(match id {
            0 => 2,
            1 | 2 => 3,
            _ => 1,
        })
    };
    let size = |size: usize| Key::U32(size as u32);
    vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", size(1)),
        ("llama.context_length", size(64)),
        ("llama.embedding_length", size(HIDDEN)),
        ("llama.feed_forward_length", size(HIDDEN)),
        ("llama.attention.head_count", size(2)),
        ("llama.attention.head_count_kv", size(1)),
        ("llama.attention.layer_norm_rms_epsilon", Key::F32(1e-5)),
        ("tokenizer.ggml.model", text("llama")),
        (
            "tokenizer.ggml.tokens",
            Key::Array(tokens.map(Key::String).collect()),
        ),
        (
            "tokenizer.ggml.token_type",
            Key::Array((0..TOKENS).map(kind).collect()),
        ),
        (
            "tokenizer.ggml.scores",
            Key::Array((0..TOKENS).map(|id| Key::F32(-(id as f32))).collect()),
        ),
        ("tokenizer.ggml.bos_token_id", size(1)),
        ("tokenizer.ggml.eos_token_id", size(2)),
        ("tokenizer.ggml.unknown_token_id", size(0)),
        (
            "tokenizer.chat_template",
            text("{% for m in messages %}{{ m.content }}{% endfor %}"),
        ),
    ]
}

/// The settings under which a model is held as `quantization` says.
pub fn held_as(quantization: &str) -> ModelConfig {
    let common = [
        "model.base=tiny",
        "data.train=rows.jsonl",
        "model.compute=f32",
    ];
    let own = [format!("model.quantization={quantization}")];
    resolved(&common, &own).config().model.clone()
}

/// Loads the model at `path` whole and computes with it, or hears why not.
pub fn compute(path: &Path, held: &ModelConfig) {
    if let Err(e) = bench::logits(path, held, None) {
        is_told(&e);
    }
}
