//! Rows of [`crate::ops::rms_norm`].

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::dot;

pub(crate) fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rho: &mut [f32]) {
    let d = w.len();
    y.par_chunks_mut(d).zip(x.par_chunks(d)).zip(rho.par_iter_mut()).for_each(|((y, x), rho)| {
        *rho = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
        scale_row(x, w, *rho, y);
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn scale_row(x: &[f32], w: &[f32], rho: f32, y: &mut [f32]) {
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * rho * w;
    }
}

pub(crate) fn backward(dy: &[f32], x: &[f32], w: &[f32], rho: &[f32], dx: &mut [f32]) {
    let d = w.len();
    dx.par_chunks_mut(d)
        .zip(dy.par_chunks(d))
        .zip(x.par_chunks(d))
        .zip(rho.par_iter())
        .for_each(|(((dx, dy), x), &rho)| backward_row(dy, x, w, rho, dx));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn backward_row(dy: &[f32], x: &[f32], w: &[f32], rho: f32, dx: &mut [f32]) {
    for ((t, dy), w) in dx.iter_mut().zip(dy).zip(w) {
        *t = dy * w;
    }
    let pull = rho * rho * dot(dx, x) / w.len() as f32;
    for (t, x) in dx.iter_mut().zip(x) {
        *t = rho * (*t - x * pull);
    }
}
