//! Elements of [`crate::ops::swiglu`].

use multiversion::multiversion;
use rayon::prelude::*;

use super::math::exp;

/// Elements that one task takes.
const CHUNK: usize = 16 * 1024;

pub(crate) fn forward(g: &[f32], e: &[f32], h: &mut [f32]) {
    h.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(e.par_chunks(CHUNK))
        .for_each(|((h, g), e)| forward_chunk(g, e, h));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn forward_chunk(g: &[f32], e: &[f32], h: &mut [f32]) {
    for ((h, &g), e) in h.iter_mut().zip(g).zip(e) {
        *h = g / (1.0 + exp(-g)) * e;
    }
}

pub(crate) fn backward(dh: &[f32], g: &[f32], e: &[f32], dg: &mut [f32], de: &mut [f32]) {
    dg.par_chunks_mut(CHUNK)
        .zip(de.par_chunks_mut(CHUNK))
        .zip(dh.par_chunks(CHUNK))
        .zip(g.par_chunks(CHUNK))
        .zip(e.par_chunks(CHUNK))
        .for_each(|((((dg, de), dh), g), e)| backward_chunk(dh, g, e, dg, de));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn backward_chunk(dh: &[f32], g: &[f32], e: &[f32], dg: &mut [f32], de: &mut [f32]) {
    for ((((dg, de), &dh), &g), &e) in dg.iter_mut().zip(de).zip(dh).zip(g).zip(e) {
        let s = 1.0 / (1.0 + exp(-g));
        *de = dh * g * s;
        *dg = dh * e * s * (1.0 + g * (1.0 - s));
    }
}
