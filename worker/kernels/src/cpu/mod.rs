//! Fast forms on plain slices. Each file names the operation of [`crate::ops`] that it serves.
//!
//! Loops are written so that the compiler can vectorise them, and `multiversion` compiles them once for AVX2 and
//! once for the baseline; rayon splits them by rows. Nothing depends on the number of threads: every sum has a
//! fixed order, so that a resumed run repeats the uninterrupted one bit for bit.

pub(crate) mod adamw;
pub(crate) mod attention;
pub mod bf16;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub mod dynamic8;
pub(crate) mod math;
pub(crate) mod matmul;
pub mod nf4;
mod nf4_tables;
pub(crate) mod noise;
pub(crate) mod philox;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
