//! What a GGUF file says of a model's shape.

use candle_core::quantized::gguf_file::Value;
use qlora_planner::ModelShape;

use super::rotary;
use crate::Result;
use crate::model::GgufForm;
use crate::weights::ModelFiles;

/// Keys and values for the model in `files`, whose matrices are of `file_type`.
///
/// # Errors
/// See [`super::agreement::check`].
pub(super) fn of(
    files: &ModelFiles,
    form: &GgufForm,
    file_type: u32,
) -> Result<Vec<(String, Value)>> {
    let name = files
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let general = |key: &str, value| (format!("general.{key}"), value);
    let mut metadata = of_shape(&files.shape, form);
    super::agreement::check(files, form, &metadata)?;
    metadata.extend([
        general("type", Value::String("model".into())),
        general("name", Value::String(name)),
        general("file_type", Value::U32(file_type)),
        general("quantization_version", Value::U32(2)),
    ]);
    Ok(metadata)
}

/// The architecture, and its keys for a model of `shape`.
pub(super) fn of_shape(shape: &ModelShape, form: &GgufForm) -> Vec<(String, Value)> {
    let size = |value: usize| Value::U32(value as u32);
    let rotated = shape.form.rotary_dim.unwrap_or(shape.head_dim);
    let epsilon = Value::F32(shape.norm_epsilon as f32);
    let mut own = vec![
        ("vocab_size", size(shape.vocabulary)),
        ("context_length", size(shape.max_positions)),
        ("embedding_length", size(shape.hidden)),
        ("block_count", size(shape.layers)),
        ("feed_forward_length", size(shape.ffn)),
        ("rope.dimension_count", size(rotated)),
        ("rope.freq_base", Value::F32(shape.rope_theta as f32)),
        ("attention.head_count", size(shape.heads)),
        ("attention.head_count_kv", size(shape.kv_heads)),
        ("attention.key_length", size(shape.head_dim)),
        ("attention.value_length", size(shape.head_dim)),
        ("attention.layer_norm_rms_epsilon", epsilon),
    ];
    own.extend(rotary::keys(shape));
    own.extend((form.write)(shape));
    let architecture = Value::String(form.name().to_owned());
    let mut metadata = vec![("general.architecture".to_owned(), architecture)];
    let full = |(key, value)| (format!("{}.{key}", form.name()), value);
    metadata.extend(own.into_iter().map(full));
    metadata
}
