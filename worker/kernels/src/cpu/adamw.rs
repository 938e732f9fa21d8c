//! Elements of [`crate::ops::adamw`] in one pass.

use multiversion::multiversion;

use super::dynamic8::{self, BLOCK, Map8};
use crate::ops::adamw::{AdamW, Constants};

pub(crate) fn update(
    rule: &AdamW,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    elements(&rule.constants(), scale, gradient, value, first, second);
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
    let constants = rule.constants();
    let (signed, unsigned): (&Map8, &Map8) = (&dynamic8::SIGNED, &dynamic8::UNSIGNED);
    let blocks = gradient.chunks(BLOCK).zip(value.chunks_mut(BLOCK));
    let moments = first.0.chunks_mut(BLOCK).zip(&mut first.1).zip(second.0.chunks_mut(BLOCK).zip(&mut second.1));
    for ((g, w), ((m_codes, m_scale), (v_codes, v_scale))) in blocks.zip(moments) {
        let mut m = decoded(signed, m_codes, *m_scale);
        let mut v = decoded(unsigned, v_codes, *v_scale);
        elements(&constants, scale, g, w, &mut m[..g.len()], &mut v[..g.len()]);
        *m_scale = signed.quantise(&m[..g.len()], m_codes);
        *v_scale = unsigned.quantise(&v[..g.len()], v_codes);
    }
}

fn decoded(map: &Map8, codes: &[u8], scale: f32) -> [f32; BLOCK] {
    let mut values = [0f32; BLOCK];
    values.iter_mut().zip(codes).for_each(|(value, &code)| *value = map.values[code as usize] * scale);
    values
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn elements(c: &Constants, scale: f32, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) {
    for (((g, w), m), v) in gradient.iter().zip(value).zip(first).zip(second) {
        let g = g * scale;
        *m = c.beta1 * *m + c.share1 * g;
        *v = c.beta2 * *v + c.share2 * g * g;
        *w = *w * c.keep - c.step * *m / (v.sqrt() * c.root + c.epsilon);
    }
}
