//! Rows of [`crate::ops::cross_entropy`].

use rayon::prelude::*;

use super::math::{exp_in_place, max};

/// Sum of the losses of `logits` [L, V].
pub(crate) fn loss(logits: &[f32], v: usize, targets: &[u32]) -> f64 {
    let losses: Vec<f64> = logits
        .par_chunks(v)
        .zip(targets)
        .map(|(row, &target)| {
            let mut scratch = row.to_vec();
            row_loss(&mut scratch, target).0
        })
        .collect();
    losses.iter().sum()
}

/// Turns `logits` [L, V] into the gradient of `sum of losses * scale` and returns the sum of the losses.
pub(crate) fn loss_and_grad(logits: &mut [f32], v: usize, targets: &[u32], scale: f32) -> f64 {
    let losses: Vec<f64> = logits
        .par_chunks_mut(v)
        .zip(targets)
        .map(|(row, &target)| {
            let (loss, total) = row_loss(row, target);
            let factor = scale / total;
            row.iter_mut().for_each(|p| *p *= factor);
            row[target as usize] -= scale;
            loss
        })
        .collect();
    losses.iter().sum()
}

/// Replaces `row` by its exponentials, shifted by the maximum; returns the loss and the sum of the row.
fn row_loss(row: &mut [f32], target: u32) -> (f64, f32) {
    let top = max(row);
    let picked = row[target as usize];
    let total = exp_in_place(row, 1.0, top);
    (f64::from(total.ln()) + f64::from(top) - f64::from(picked), total)
}
