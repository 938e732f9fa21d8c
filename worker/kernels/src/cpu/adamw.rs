//! Elements of [`crate::ops::adamw`] in one pass.

use multiversion::multiversion;

use super::dynamic8::{self, BLOCK, Map8};
use crate::ops::adamw::AdamW;

pub(crate) fn update(
    rule: &AdamW,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    elements(&Constants::new(rule, scale), gradient, value, first, second);
}

/// [`update`] with moments in 8 bits: codes, and a scale for each block of them. A block is read, updated and written
/// at a time.
pub(crate) fn update_coded(
    rule: &AdamW,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut (Vec<u8>, Vec<f32>),
    second: &mut (Vec<u8>, Vec<f32>),
) {
    let constants = Constants::new(rule, scale);
    let (signed, unsigned): (&Map8, &Map8) = (&dynamic8::SIGNED, &dynamic8::UNSIGNED);
    let blocks = gradient.chunks(BLOCK).zip(value.chunks_mut(BLOCK));
    let moments = first.0.chunks_mut(BLOCK).zip(&mut first.1).zip(second.0.chunks_mut(BLOCK).zip(&mut second.1));
    for ((g, w), ((m_codes, m_scale), (v_codes, v_scale))) in blocks.zip(moments) {
        let mut m = decoded(signed, m_codes, *m_scale);
        let mut v = decoded(unsigned, v_codes, *v_scale);
        elements(&constants, g, w, &mut m[..g.len()], &mut v[..g.len()]);
        *m_scale = signed.quantise(&m[..g.len()], m_codes);
        *v_scale = unsigned.quantise(&v[..g.len()], v_codes);
    }
}

fn decoded(map: &Map8, codes: &[u8], scale: f32) -> [f32; BLOCK] {
    let mut values = [0f32; BLOCK];
    values.iter_mut().zip(codes).for_each(|(value, &code)| *value = map.values[code as usize] * scale);
    values
}

struct Constants {
    beta1: f32,
    beta2: f32,
    /// 1 - beta, rounded once: in `f32` the difference would lose four digits.
    share1: f32,
    share2: f32,
    epsilon: f32,
    keep: f32,
    step: f32,
    root: f32,
    scale: f32,
}

impl Constants {
    fn new(rule: &AdamW, scale: f32) -> Self {
        Self {
            beta1: rule.beta1 as f32,
            beta2: rule.beta2 as f32,
            share1: (1.0 - rule.beta1) as f32,
            share2: (1.0 - rule.beta2) as f32,
            epsilon: rule.epsilon as f32,
            keep: (1.0 - rule.learning_rate * rule.weight_decay) as f32,
            step: (rule.learning_rate / rule.correction1()) as f32,
            root: (1.0 / rule.correction2().sqrt()) as f32,
            scale,
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn elements(c: &Constants, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) {
    for (((g, w), m), v) in gradient.iter().zip(value).zip(first).zip(second) {
        let g = g * c.scale;
        *m = c.beta1 * *m + c.share1 * g;
        *v = c.beta2 * *v + c.share2 * g * g;
        *w = *w * c.keep - c.step * *m / (v.sqrt() * c.root + c.epsilon);
    }
}
