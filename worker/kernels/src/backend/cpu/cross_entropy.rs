//! Losses of rows of logits.

use rayon::prelude::*;

use crate::backend::cpu::math::{cap_in_place, exp_into, max};
use crate::host::bf16::{round, to_bf16};
use crate::types::rows::Rows;

/// Sum of the losses of `logits` [L, V].
pub(crate) fn loss(logits: &[f32], cap: Option<f32>, v: usize, targets: &[u32]) -> f64 {
    let rows = logits.par_chunks(v).zip(targets);
    let losses = rows.map_with(vec![0f32; v], |scratch, (row, &target)| {
        let mut capped = Vec::new();
        let row = under(cap, row, &mut capped);
        let top = max(row);
        let total = exp_into(row, top, scratch);
        f64::from(total.ln()) + f64::from(top) - f64::from(row[target as usize])
    });
    let losses: Vec<f64> = losses.collect();
    losses.iter().sum()
}

/// Sum of the losses of `logits` [L, V], and the gradient of `sum of losses * scale` in bf16: a
/// product is all that it goes on to.
pub(crate) fn loss_and_grad(
    logits: &[f32],
    cap: Option<f32>,
    v: usize,
    targets: &[u32],
    scale: f32,
) -> (f64, Rows) {
    let scratch = || (vec![0f32; v], Vec::new());
    let make = |(exponentials, capped): &mut (Vec<f32>, Vec<f32>), row: usize, out: &mut [u16]| {
        let (logits, target) = (&logits[row * v..(row + 1) * v], targets[row] as usize);
        let logits = under(cap, logits, capped);
        let top = max(logits);
        let total = exp_into(logits, top, exponentials);
        let factor = scale / total;
        let at_target = exponentials[target] * factor - scale;
        if let Some(cap) = cap {
            exponentials
                .iter_mut()
                .zip(logits)
                .for_each(|(value, &logit)| *value *= slope(cap, logit));
        }
        round(exponentials, factor, out);
        out[target] = to_bf16(cap.map_or(1.0, |cap| slope(cap, logits[target])) * at_target);
        f64::from(total.ln()) + f64::from(top) - f64::from(logits[target])
    };
    let (grad, losses) = Rows::make_with(targets.len(), v, scratch, make);
    (losses.iter().sum(), grad)
}

/// `logits` under the soft cap, in `room` where there is one.
fn under<'a>(cap: Option<f32>, logits: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
    let Some(cap) = cap else { return logits };
    room.clear();
    room.extend_from_slice(logits);
    cap_in_place(room, cap);
    room
}

/// The slope of the cap at a capped logit.
fn slope(cap: f32, capped: f32) -> f32 {
    let share = capped / cap;
    1.0 - share * share
}
