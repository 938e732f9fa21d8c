//! Elements of the gated activation.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::backend::cpu::math::exp;
use crate::host::bf16::round;
use crate::types::glu::{GELU_CUBE, GELU_SLOPE, GateFunction};
use crate::types::rows::{Rows, widen};

/// Elements that one task takes.
const CHUNK: usize = 16 * 1024;

pub(crate) fn forward(gate: GateFunction, g: &[f32], e: &[f32], h: &mut [f32]) {
    h.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(e.par_chunks(CHUNK))
        .for_each(|((h, g), e)| forward_chunk(gate, g, e, h));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn forward_chunk(gate: GateFunction, g: &[f32], e: &[f32], h: &mut [f32]) {
    let all = h.iter_mut().zip(g).zip(e);
    match gate {
        GateFunction::Silu => all.for_each(|((h, &g), e)| *h = g / (1.0 + exp(-g)) * e),
        GateFunction::GeluTanh => {
            all.for_each(|((h, &g), e)| *h = g / (1.0 + exp(-gelu_inner(g))) * e);
        }
    }
}

/// z of [`GateFunction::GeluTanh`].
#[inline(always)]
fn gelu_inner(g: f32) -> f32 {
    GELU_SLOPE * (g + GELU_CUBE * g * g * g)
}

pub(crate) fn backward(
    gate: GateFunction,
    (dh, g, e): (&[f32], &[f32], &[f32]),
    dg: &mut [f32],
    de: &mut [f32],
) {
    dg.par_chunks_mut(CHUNK)
        .zip(de.par_chunks_mut(CHUNK))
        .zip(dh.par_chunks(CHUNK))
        .zip(g.par_chunks(CHUNK))
        .zip(e.par_chunks(CHUNK))
        .for_each(|((((dg, de), dh), g), e)| backward_chunk(gate, (dh, g, e), dg, de));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn backward_chunk(
    gate: GateFunction,
    (dh, g, e): (&[f32], &[f32], &[f32]),
    dg: &mut [f32],
    de: &mut [f32],
) {
    let all = dg.iter_mut().zip(de).zip(dh).zip(g).zip(e);
    match gate {
        GateFunction::Silu => all.for_each(|((((dg, de), &dh), &g), &e)| {
            let s = 1.0 / (1.0 + exp(-g));
            *de = dh * g * s;
            *dg = dh * e * s * (1.0 + g * (1.0 - s));
        }),
        GateFunction::GeluTanh => all.for_each(|((((dg, de), &dh), &g), &e)| {
            let s = 1.0 / (1.0 + exp(-gelu_inner(g)));
            let slope = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBE * g * g);
            *de = dh * g * s;
            *dg = dh * e * s * (1.0 + g * (1.0 - s) * slope);
        }),
    }
}

/// Elements that are widened to `f32` at one time.
const RUN: usize = 512;

/// [`forward`] of bf16.
pub(crate) fn forward_rows(gate: GateFunction, g: &Rows, e: &Rows) -> Rows {
    Rows::make(g.rows, g.width, |row, out| {
        let (mut g32, mut e32, mut h) = ([0f32; RUN], [0f32; RUN], [0f32; RUN]);
        for ((g, e), out) in g
            .row(row)
            .chunks(RUN)
            .zip(e.row(row).chunks(RUN))
            .zip(out.chunks_mut(RUN))
        {
            let n = g.len();
            widen(g, &mut g32);
            widen(e, &mut e32);
            forward_chunk(gate, &g32[..n], &e32[..n], &mut h[..n]);
            round(&h[..n], 1.0, out);
        }
    })
}

/// [`backward`] of bf16.
pub(crate) fn backward_rows(gate: GateFunction, dh: &Rows, g: &Rows, e: &Rows) -> (Rows, Rows) {
    Rows::make_two(g.rows, g.width, |row, dg_out, de_out| {
        let [mut dh32, mut g32, mut e32, mut dg, mut de] = [[0f32; RUN]; 5];
        let inputs = dh
            .row(row)
            .chunks(RUN)
            .zip(g.row(row).chunks(RUN))
            .zip(e.row(row).chunks(RUN));
        for (((dh, g), e), (dg_out, de_out)) in
            inputs.zip(dg_out.chunks_mut(RUN).zip(de_out.chunks_mut(RUN)))
        {
            let n = g.len();
            widen(dh, &mut dh32);
            widen(g, &mut g32);
            widen(e, &mut e32);
            let inputs = (&dh32[..n], &g32[..n], &e32[..n]);
            backward_chunk(gate, inputs, &mut dg[..n], &mut de[..n]);
            round(&dg[..n], 1.0, dg_out);
            round(&de[..n], 1.0, de_out);
        }
    })
}
