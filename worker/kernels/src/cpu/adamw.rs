//! Elements of [`crate::ops::adamw`] in one pass.

use multiversion::multiversion;

use crate::ops::adamw::AdamW;

pub(crate) fn update(
    rule: &AdamW,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let constants = Constants {
        beta1: rule.beta1 as f32,
        beta2: rule.beta2 as f32,
        epsilon: rule.epsilon as f32,
        keep: (1.0 - rule.learning_rate * rule.weight_decay) as f32,
        step: (rule.learning_rate / rule.correction1()) as f32,
        root: (1.0 / rule.correction2().sqrt()) as f32,
        scale,
    };
    elements(&constants, gradient, value, first, second);
}

struct Constants {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    keep: f32,
    step: f32,
    root: f32,
    scale: f32,
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn elements(c: &Constants, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) {
    for (((g, w), m), v) in gradient.iter().zip(value).zip(first).zip(second) {
        let g = g * c.scale;
        *m = c.beta1 * *m + (1.0 - c.beta1) * g;
        *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
        *w = *w * c.keep - c.step * *m / (v.sqrt() * c.root + c.epsilon);
    }
}
