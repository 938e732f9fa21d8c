//! Rows of [`crate::ops::cross_entropy`].

use rayon::prelude::*;

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout};

use super::math::{exp_in_place, max};

/// Turns logits [L, V] into the gradient of `sum of losses * scale` where they lie.
pub(crate) struct Gradient<'a> {
    targets: &'a [u32],
    v: usize,
    scale: f32,
    loss: Cell<f64>,
}

impl<'a> Gradient<'a> {
    pub(crate) fn new(targets: &'a [u32], v: usize, scale: f32) -> Self {
        Self { targets, v, scale, loss: Cell::new(0.0) }
    }

    /// The sum of the losses, after the operation.
    pub(crate) fn loss(&self) -> f64 {
        self.loss.get()
    }
}

impl InplaceOp1 for Gradient<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy gradient"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("logits are a contiguous matrix of f32")
        };
        self.loss.set(loss_and_grad(&mut data[start..end], self.v, self.targets, self.scale));
        Ok(())
    }
}

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
fn loss_and_grad(logits: &mut [f32], v: usize, targets: &[u32], scale: f32) -> f64 {
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
