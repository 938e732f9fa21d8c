//! Rows of the norm.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::backend::cpu::math::dot;
use crate::host::bf16::round;
use crate::types::rows::Rows;

/// What the elements of a normed row are multiplied with: an offset and a weight.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) offset: f32,
}

/// Elements that are made before they are rounded to bf16.
const RUN: usize = 512;

pub(crate) fn forward(x: &[f32], w: Factor<'_>, eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let d = w.weight.len();
    y.par_chunks_mut(d)
        .zip(x.par_chunks(d))
        .zip(rstd.par_iter_mut())
        .for_each(|((y, x), rstd)| {
            *rstd = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            scale_row(x, w.weight, w.offset, *rstd, y);
        });
}

/// [`forward`] in bf16.
pub(crate) fn forward_rows(x: &[f32], w: Factor<'_>, eps: f32, rstd: &mut [f32]) -> Rows {
    let d = w.weight.len();
    let row_of = |row: usize| &x[row * d..(row + 1) * d];
    rstd.par_iter_mut()
        .enumerate()
        .with_min_len(8)
        .for_each(|(row, rstd)| {
            *rstd = 1.0 / (dot(row_of(row), row_of(row)) / d as f32 + eps).sqrt();
        });
    let (rstd, offset) = (&*rstd, w.offset);
    Rows::make(rstd.len(), d, |row, out| {
        let mut y = [0f32; RUN];
        for ((x, w), out) in row_of(row)
            .chunks(RUN)
            .zip(w.weight.chunks(RUN))
            .zip(out.chunks_mut(RUN))
        {
            scale_row(x, w, offset, rstd[row], &mut y[..x.len()]);
            round(&y[..x.len()], 1.0, out);
        }
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn scale_row(x: &[f32], w: &[f32], offset: f32, rstd: f32, y: &mut [f32]) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * rstd * (offset + w);
    }
}

pub(crate) fn backward(dy: &[f32], x: &[f32], w: Factor<'_>, rstd: &[f32], dx: &mut [f32]) {
    let d = w.weight.len();
    dx.par_chunks_mut(d)
        .zip(dy.par_chunks(d))
        .zip(x.par_chunks(d))
        .zip(rstd.par_iter())
        .for_each(|(((dx, dy), x), &rstd)| backward_row(dy, x, w, rstd, dx));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn backward_row(dy: &[f32], x: &[f32], w: Factor<'_>, rstd: f32, dx: &mut [f32]) {
    for ((t, dy), weight) in dx.iter_mut().zip(dy).zip(w.weight) {
        *t = dy * (w.offset + weight);
    }
    let pull = rstd * rstd * dot(dx, x) / w.weight.len() as f32;
    for (t, x) in dx.iter_mut().zip(x) {
        *t = rstd * (*t - x * pull);
    }
}
