//! A CPU: our kernels on plain slices, in `f32` and in bf16.
//!
//! Loops are written so that the compiler can vectorize them, and `multiversion` compiles them once
//! for AVX2 and once for the baseline; rayon splits them by rows. Nothing depends on the number of
//! threads: every sum has a fixed order, so that a resumed run repeats the uninterrupted one bit
//! for bit.

pub(crate) mod attention;
pub(crate) mod backend;
pub(crate) mod bf16;
mod cross_entropy;
mod glu;
mod math;
mod matmul;
mod products;
mod rms_norm;
mod rope;
mod sources;
