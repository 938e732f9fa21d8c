//! Inverse frequencies of the rotary embedding.

use std::f64::consts::PI;

use qlora_planner::{ModelShape, RopeScaling};

/// 1 / theta^(2i/E) for i below E/2, scaled as the checkpoint asks.
///
/// The `llama3` scaling follows transformers' `modeling_rope_utils.py`: long waves are stretched by
/// `factor`, short ones stay, and those between are interpolated.
pub(crate) fn inverse_frequencies(shape: &ModelShape) -> Vec<f32> {
    let half = shape.head_dim / 2;
    let plain = |i: usize| {
        1.0 / shape
            .rope_theta
            .powf(2.0 * i as f64 / shape.head_dim as f64)
    };
    let scaled = |i: usize| match &shape.rope_scaling {
        None => plain(i),
        Some(RopeScaling::Divisors(divisors)) => plain(i) / f64::from(divisors[i]),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_positions,
        }) => {
            let frequency = plain(i);
            let wave = 2.0 * PI / frequency;
            if wave > original_positions / low_freq_factor {
                frequency / factor
            } else if wave < original_positions / high_freq_factor {
                frequency
            } else {
                let smooth = (original_positions / wave - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    };
    (0..half).map(|i| scaled(i) as f32).collect()
}
