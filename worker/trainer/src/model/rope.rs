//! Inverse frequencies of the rotary embeddings of a model.
//!
//! The scalings follow transformers' `modeling_rope_utils.py`.

use std::f64::consts::PI;

use qlora_kernels::RopeAngles;
use qlora_planner::{LayerRope, ModelShape, RopeScaling};

/// The rotary embeddings of a model where the longest sequence of a batch has `length` tokens, each
/// with its layers; none of them is without a layer.
pub(crate) fn angles(shape: &ModelShape, length: usize) -> Vec<(LayerRope, RopeAngles)> {
    let has = |rope: LayerRope| (0..shape.layers).any(|layer| shape.layer(layer).rope == rope);
    let mut all = Vec::new();
    if has(LayerRope::Global) {
        let scaling = shape.rope_scaling.as_ref();
        let angles = RopeAngles {
            inv_freq: scaled(shape, shape.rope_theta, scaling, length),
            head_dim: shape.head_dim,
            factor: scaling.map_or(1.0, attention_factor) as f32,
        };
        all.push((LayerRope::Global, angles));
    }
    if let Some(theta) = shape
        .form
        .local_rope_theta
        .filter(|_| has(LayerRope::Local))
    {
        let angles = RopeAngles {
            inv_freq: scaled(shape, theta, None, length),
            head_dim: shape.head_dim,
            factor: 1.0,
        };
        all.push((LayerRope::Local, angles));
    }
    all
}

/// Tokens of the longest sequence of a batch beyond which other angles are taken: LongRoPE's
/// original positions.
pub(crate) fn switch(shape: &ModelShape) -> Option<usize> {
    match &shape.rope_scaling {
        Some(RopeScaling::LongRope {
            original_positions, ..
        }) => Some(*original_positions),
        _ => None,
    }
}

/// Those of [`LayerRope::Global`] for sequences of up to `length` tokens.
pub(crate) fn inverse_frequencies(shape: &ModelShape, length: usize) -> Vec<f32> {
    scaled(shape, shape.rope_theta, shape.rope_scaling.as_ref(), length)
}

/// What cosines and sines are multiplied with.
fn attention_factor(scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Yarn {
            attention_factor, ..
        }
        | RopeScaling::LongRope {
            attention_factor, ..
        } => *attention_factor,
        RopeScaling::Llama3 { .. } | RopeScaling::Linear { .. } | RopeScaling::Divisors(_) => 1.0,
    }
}

/// 1 / theta^(2i/P) for i below P/2, where P elements of a head are rotated, scaled as the
/// checkpoint asks.
fn scaled(
    shape: &ModelShape,
    theta: f64,
    scaling: Option<&RopeScaling>,
    length: usize,
) -> Vec<f32> {
    let rotated = shape.form.rotary_dim.unwrap_or(shape.head_dim);
    let plain = |i: usize| 1.0 / theta.powf(2.0 * i as f64 / rotated as f64);
    let scaled = |i: usize| match scaling {
        None => plain(i),
        Some(RopeScaling::Linear { factor }) => plain(i) / factor,
        Some(RopeScaling::Divisors(divisors)) => plain(i) / f64::from(divisors[i]),
        Some(RopeScaling::LongRope {
            short,
            long,
            original_positions,
            ..
        }) => {
            let divisors = if length > *original_positions {
                long
            } else {
                short
            };
            plain(i) / f64::from(divisors[i])
        }
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_positions,
        }) => {
            let bounds = (*low_freq_factor, *high_freq_factor);
            llama3(plain(i), *factor, bounds, *original_positions)
        }
        Some(RopeScaling::Yarn {
            factor,
            original_positions,
            beta_fast,
            beta_slow,
            truncate,
            ..
        }) => {
            let place = |turns: f64| {
                rotated as f64 * (original_positions / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
            };
            let bounds = (place(*beta_fast), place(*beta_slow));
            yarn((i, plain(i)), *factor, bounds, (*truncate, rotated))
        }
    };
    (0..rotated / 2).map(|i| scaled(i) as f32).collect()
}

/// Long waves are stretched by `factor`, short ones stay, and those between are interpolated.
fn llama3(frequency: f64, factor: f64, (low, high): (f64, f64), original_positions: f64) -> f64 {
    let wave = 2.0 * PI / frequency;
    if wave > original_positions / low {
        frequency / factor
    } else if wave < original_positions / high {
        frequency
    } else {
        let smooth = (original_positions / wave - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Frequencies from the lower bound on are interpolated more and more, and all from the upper one
/// on by `factor`.
fn yarn(
    (i, plain): (usize, f64),
    factor: f64,
    (low, high): (f64, f64),
    (truncate, rotated): (bool, usize),
) -> f64 {
    let (low, high) = if truncate {
        (low.floor(), high.ceil())
    } else {
        (low, high)
    };
    let (low, mut high) = (low.max(0.0), high.min((rotated - 1) as f64));
    if low == high {
        high += 0.001;
    }
    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    plain / factor * ramp + plain * (1.0 - ramp)
}
