//! `config.json` of a Hugging Face checkpoint, through the types of candle-transformers.

use candle_transformers::models::llama::LlamaConfig;
use candle_transformers::models::mistral::Config as MistralConfig;
use qlora_planner::{ModelShape, RopeScaling};
use serde_json::Value;

/// Sizes and constants of a Llama or Mistral `config.json`; the error says what does not fit.
///
/// Since transformers 5 the rotary parameters stand together under `rope_parameters`; older checkpoints have
/// `rope_theta` and `rope_scaling`. Both are read.
pub fn shape_from_json(config: &Value) -> Result<ModelShape, String> {
    let mut config = config.clone();
    let rope = config.get("rope_parameters").cloned().unwrap_or(Value::Null);
    let theta = rope["rope_theta"].as_f64().or_else(|| config["rope_theta"].as_f64()).unwrap_or(10_000.0);
    config["rope_theta"] = Value::from(theta);
    let scaling = if rope.is_object() { rope } else { config["rope_scaling"].clone() };
    let rope_scaling = rope_scaling(&scaling)?;
    config["rope_scaling"] = Value::Null;
    let mut shape = match config["model_type"].as_str() {
        Some("llama") => llama(&config)?,
        Some("mistral") => mistral(&config)?,
        Some(other) => return Err(format!("the architecture `{other}` is not supported")),
        None => return Err("`model_type` is missing".into()),
    };
    if config["attention_bias"].as_bool() == Some(true) || config["mlp_bias"].as_bool() == Some(true) {
        return Err("linear layers with a bias are not supported".into());
    }
    if let Some(act) = config["hidden_act"].as_str().filter(|&act| act != "silu") {
        return Err(format!("the activation `{act}` is not supported"));
    }
    shape.rope_theta = theta;
    shape.rope_scaling = rope_scaling;
    shape.head_dim = config["head_dim"].as_u64().map_or(shape.hidden / shape.heads, |d| d as usize);
    if shape.heads % shape.kv_heads != 0 {
        return Err(format!("{} query heads cannot share {} key heads", shape.heads, shape.kv_heads));
    }
    Ok(shape)
}

fn llama(config: &Value) -> Result<ModelShape, String> {
    let c: LlamaConfig = serde_json::from_value(config.clone()).map_err(|e| e.to_string())?;
    Ok(ModelShape {
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads(),
        head_dim: 0,
        ffn: c.intermediate_size,
        vocabulary: c.vocab_size,
        tied_embeddings: c.tie_word_embeddings.unwrap_or(false),
        norm_epsilon: c.rms_norm_eps,
        rope_theta: 0.0,
        rope_scaling: None,
        sliding_window: None,
        max_positions: c.max_position_embeddings,
    })
}

fn mistral(config: &Value) -> Result<ModelShape, String> {
    let c: MistralConfig = serde_json::from_value(config.clone()).map_err(|e| e.to_string())?;
    Ok(ModelShape {
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: 0,
        ffn: c.intermediate_size,
        vocabulary: c.vocab_size,
        tied_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
        norm_epsilon: c.rms_norm_eps,
        rope_theta: 0.0,
        rope_scaling: None,
        sliding_window: c.sliding_window,
        max_positions: c.max_position_embeddings,
    })
}

fn rope_scaling(scaling: &Value) -> Result<Option<RopeScaling>, String> {
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str()).unwrap_or("default");
    let number = |key: &str| scaling[key].as_f64().ok_or_else(|| format!("`rope_scaling.{key}` is missing"));
    match kind {
        "default" => Ok(None),
        "llama3" => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_positions: number("original_max_position_embeddings")?,
        })),
        other => Err(format!("the rotary scaling `{other}` is not supported")),
    }
}
