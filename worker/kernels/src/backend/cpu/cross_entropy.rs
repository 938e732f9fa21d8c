//! Losses of rows of logits.

use rayon::prelude::*;

use crate::backend::cpu::math::{exp_into, max};
use crate::host::bf16::{round, to_bf16};
use crate::types::rows::Rows;

/// Sum of the losses of `logits` [L, V].
pub(crate) fn loss(logits: &[f32], v: usize, targets: &[u32]) -> f64 {
    let rows = logits.par_chunks(v).zip(targets);
    let losses = rows.map_with(vec![0f32; v], |scratch, (row, &target)| {
        let top = max(row);
        let total = exp_into(row, top, scratch);
        f64::from(total.ln()) + f64::from(top) - f64::from(row[target as usize])
    });
    let losses: Vec<f64> = losses.collect();
    losses.iter().sum()
}

/// Sum of the losses of `logits` [L, V], and the gradient of `sum of losses * scale` in bf16: a
/// product is all that it goes on to.
pub(crate) fn loss_and_grad(logits: &[f32], v: usize, targets: &[u32], scale: f32) -> (f64, Rows) {
    let scratch = || vec![0f32; v];
    let (grad, losses) = Rows::make_with(targets.len(), v, scratch, |exponentials, row, out| {
        let (logits, target) = (&logits[row * v..(row + 1) * v], targets[row] as usize);
        let top = max(logits);
        let total = exp_into(logits, top, exponentials);
        let factor = scale / total;
        round(exponentials, factor, out);
        out[target] = to_bf16(exponentials[target] * factor - scale);
        f64::from(total.ln()) + f64::from(top) - f64::from(logits[target])
    });
    (losses.iter().sum(), grad)
}
