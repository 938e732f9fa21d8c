//! What a GGUF file says of a model's shape.

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{DecoderForm, ModelShape, RopeScaling};

use crate::model::inverse_frequencies;
use crate::weights::ModelFiles;
use crate::{Error, Result};

/// llama.cpp's name for the graph of Llama and Mistral.
pub(super) const ARCHITECTURE: &str = "llama";

/// Keys and values for the model in `files`, whose matrices are of `file_type`.
pub(super) fn of(files: &ModelFiles, file_type: u32) -> Result<Vec<(String, Value)>> {
    let shape = &files.shape;
    let scales_otherwise = matches!(
        shape.rope_scaling,
        Some(RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. })
    );
    if shape.form != DecoderForm::default() || scales_otherwise {
        return Err(Error::Export {
            path: files.path.clone(),
            fault: "is of an architecture that is not written as GGUF; export a folder".into(),
        });
    }
    let name = files
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let general = |key: &str, value| (format!("general.{key}"), value);
    let own = |key: &str, value| (format!("{ARCHITECTURE}.{key}"), value);
    let size = |value: usize| Value::U32(value as u32);
    let mut metadata = vec![
        general("architecture", Value::String(ARCHITECTURE.into())),
        general("type", Value::String("model".into())),
        general("name", Value::String(name)),
        general("file_type", Value::U32(file_type)),
        general("quantization_version", Value::U32(2)),
        own("vocab_size", size(shape.vocabulary)),
        own("context_length", size(shape.max_positions)),
        own("embedding_length", size(shape.hidden)),
        own("block_count", size(shape.layers)),
        own("feed_forward_length", size(shape.ffn)),
        own("rope.dimension_count", size(shape.head_dim)),
        own("rope.freq_base", Value::F32(shape.rope_theta as f32)),
        own("attention.head_count", size(shape.heads)),
        own("attention.head_count_kv", size(shape.kv_heads)),
        own("attention.key_length", size(shape.head_dim)),
        own("attention.value_length", size(shape.head_dim)),
        own(
            "attention.layer_norm_rms_epsilon",
            Value::F32(shape.norm_epsilon as f32),
        ),
    ];
    if let Some(window) = shape.sliding_window {
        metadata.push(own("attention.sliding_window", size(window)));
    }
    Ok(metadata)
}

/// What each rotary frequency is divided by, where the model scales them.
pub(super) fn rope_divisors(shape: &ModelShape) -> Option<Vec<f32>> {
    match &shape.rope_scaling {
        None
        | Some(
            RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. },
        ) => None,
        Some(RopeScaling::Divisors(divisors)) => Some(divisors.clone()),
        Some(RopeScaling::Llama3 { .. }) => {
            let plain = ModelShape {
                rope_scaling: None,
                ..shape.clone()
            };
            let plain = inverse_frequencies(&plain, shape.max_positions);
            Some(
                plain
                    .iter()
                    .zip(inverse_frequencies(shape, shape.max_positions))
                    .map(|(plain, scaled)| plain / scaled)
                    .collect(),
            )
        }
    }
}
