//! How rotary frequencies are scaled, in keys and tensors of a GGUF file.

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{ModelShape, RopeScaling};

use crate::model::{GgufForm, RopeForm, inverse_frequencies};
use crate::weights::gguf::{DIVISORS, LONG, RopeTensors, SHORT, yarn_growth};

/// Keys after the architecture's name.
pub(super) fn keys(shape: &ModelShape) -> Vec<(&'static str, Value)> {
    let float = |number: f64| Value::F32(number as f32);
    let text = |text: &str| Value::String(text.to_owned());
    let positions = |number: f64| Value::U32(number as u32);
    match &shape.rope_scaling {
        None | Some(RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_)) => Vec::new(),
        Some(RopeScaling::Linear { factor }) => vec![
            ("rope.scaling.type", text("linear")),
            ("rope.scaling.factor", float(*factor)),
        ],
        Some(RopeScaling::Yarn {
            factor,
            original_positions,
            attention_factor,
            ..
        }) => vec![
            ("rope.scaling.type", text("yarn")),
            ("rope.scaling.factor", float(*factor)),
            (
                "rope.scaling.original_context_length",
                positions(*original_positions),
            ),
            (
                "rope.scaling.attn_factor",
                float(attention_factor / yarn_growth(*factor)),
            ),
        ],
        Some(RopeScaling::LongRope {
            original_positions,
            attention_factor,
            ..
        }) => vec![
            (
                "rope.scaling.original_context_length",
                positions(*original_positions as f64),
            ),
            ("rope.scaling.attn_factor", float(*attention_factor)),
        ],
    }
}

/// The rotary tensors of a file of `form`: those that its graph reads.
pub(super) fn tensors(shape: &ModelShape, form: &GgufForm) -> RopeTensors {
    match &shape.rope_scaling {
        Some(RopeScaling::LongRope { short, long, .. }) if form.has(RopeForm::Long) => {
            RopeTensors {
                short: Some(short.clone()),
                long: Some(long.clone()),
                divisors: None,
            }
        }
        Some(RopeScaling::Divisors(divisors)) if form.has(RopeForm::Divisors) => RopeTensors {
            divisors: Some(divisors.clone()),
            ..RopeTensors::default()
        },
        Some(RopeScaling::Llama3 { .. }) if form.has(RopeForm::Divisors) => RopeTensors {
            divisors: Some(divisors(shape)),
            ..RopeTensors::default()
        },
        _ => RopeTensors::default(),
    }
}

/// Every one of `tensors` with its name.
pub(super) fn named(tensors: RopeTensors) -> Vec<(&'static str, Vec<f32>)> {
    let all = [
        (DIVISORS, tensors.divisors),
        (SHORT, tensors.short),
        (LONG, tensors.long),
    ];
    let given = all.into_iter().map(|(name, list)| Some((name, list?)));
    given.flatten().collect()
}

/// What each rotary frequency of a model that scales as Llama 3.1 does is divided by.
fn divisors(shape: &ModelShape) -> Vec<f32> {
    let plain = ModelShape {
        rope_scaling: None,
        ..shape.clone()
    };
    let plain = inverse_frequencies(&plain, shape.max_positions);
    plain
        .iter()
        .zip(inverse_frequencies(shape, shape.max_positions))
        .map(|(plain, scaled)| plain / scaled)
        .collect()
}
