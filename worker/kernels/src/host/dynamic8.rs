//! The 8-bit dynamic maps of bitsandbytes (Dettmers et al., 8-bit Optimizers via Block-wise
//! Quantization, 2022): the fraction gets the bits that the exponent leaves over. Scales of NF4
//! blocks and optimizer states are kept in them.

use std::sync::LazyLock;

use crate::types::adamw::Coded;

/// Elements that share a scale.
pub const BLOCK: usize = Coded::BLOCK;

/// Largest number of bits of the exponent.
const EXPONENT: i32 = 7;
/// bitsandbytes finds codes by rounding to one of so many points between -1 and 1 first.
const POINTS: usize = 1 << 16;

/// A map from 8-bit codes to values of at most 1, ascending.
#[derive(Debug)]
pub struct Map8 {
    pub values: [f32; 256],
    /// The code of each of [`POINTS`] points.
    nearest: Vec<u8>,
}

/// Values of both signs: scales without their mean, and first moments.
pub static SIGNED: LazyLock<Map8> = LazyLock::new(|| Map8::new(true));
/// Values from 0 on: second moments.
pub static UNSIGNED: LazyLock<Map8> = LazyLock::new(|| Map8::new(false));

impl Map8 {
    fn new(signed: bool) -> Self {
        let values = values(signed);
        let point = |i: usize| -1.0 + 2.0 * i as f32 / (POINTS - 1) as f32;
        Self {
            nearest: (0..POINTS)
                .map(|i| exactly_nearest(&values, point(i)))
                .collect(),
            values,
        }
    }

    /// The code whose value is nearest to `x`; close to a midpoint its neighbor may be taken.
    pub fn code(&self, x: f32) -> u8 {
        let place = (x.clamp(-1.0, 1.0) + 1.0) * 0.5 * (POINTS - 1) as f32;
        self.nearest[(place + 0.5) as usize]
    }

    /// The codes of [`POINTS`] points from -1 to 1.
    pub fn nearest(&self) -> &[u8] {
        &self.nearest
    }

    /// Writes the codes of a block and returns its scale, the largest magnitude.
    pub fn quantize(&self, block: &[f32], codes: &mut [u8]) -> f32 {
        let scale = block.iter().fold(0f32, |a, v| a.max(v.abs()));
        let inverse = 1.0 / scale;
        for (code, v) in codes.iter_mut().zip(block) {
            *code = if scale > 0.0 {
                self.code(v * inverse)
            } else {
                0
            };
        }
        scale
    }
}

/// Each power of ten from 1e-6 to 1 is cut into twice as many equal parts as the one below, whose
/// middles are taken.
///
/// The arithmetic is PyTorch's `linspace` in `f32`, so that the values are bit-identical to
/// bitsandbytes'.
fn values(signed: bool) -> [f32; 256] {
    let mut found = Vec::with_capacity(256);
    for i in 0..EXPONENT {
        let points = (1usize << (i + i32::from(!signed))) + 1;
        let power = 10f64.powi(i + 1 - EXPONENT) as f32;
        let bounds = linspace(points);
        for pair in bounds.windows(2) {
            let value = power * ((pair[0] + pair[1]) / 2.0);
            found.push(value);
            if signed {
                found.push(-value);
            }
        }
    }
    found.extend([0.0, 1.0]);
    found.sort_by(f32::total_cmp);
    let mut values = [0f32; 256];
    values
        .iter_mut()
        .zip(found)
        .for_each(|(slot, value)| *slot = value);
    values
}

/// `n` points from 0.1 to 1, counted from the nearer end.
fn linspace(n: usize) -> Vec<f32> {
    let (start, end) = (0.1f32, 1f32);
    let step = (end - start) / (n - 1) as f32;
    let point = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((n - 1 - i) as f32, end)
        }
    };
    (0..n).map(point).collect()
}

/// The code whose value is nearest to `x`; between two it takes the lower.
fn exactly_nearest(values: &[f32; 256], x: f32) -> u8 {
    let above = values
        .partition_point(|&v| v < x)
        .clamp(1, values.len() - 1);
    let (left, right) = (x - values[above - 1], values[above] - x);
    (if right < left { above } else { above - 1 }) as u8
}
