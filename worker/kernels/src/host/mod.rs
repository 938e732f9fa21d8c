//! Functions on plain slices in host memory that more than one backend needs: masks and noise,
//! codecs of NF4, of 8-bit moments and of GGUF's blocks, rounding to bf16.
//!
//! Loops are written so that the compiler can vectorize them, and `multiversion` compiles them once
//! for AVX2 and once for the baseline; rayon splits them by rows. Nothing depends on the number of
//! threads: every sum has a fixed order, so that a resumed run repeats the uninterrupted one bit
//! for bit.

pub mod adamw;
pub mod bf16;
pub(crate) mod dropout;
pub mod dynamic8;
pub mod ggml;
pub mod nf4;
pub(crate) mod nf4_tables;
pub(crate) mod noise;
pub(crate) mod philox;
pub(crate) mod view;
