//! What only a GPU has: attention that it refuses, several of them, what is refused before work
//! begins. What an operation computes is tested once for all backends, in `operations/`, and there
//! too whether cuDNN's attention is taken. Needs the `cuda` feature and a GPU, or the emulated one
//! of `emulated/build.sh`, which also finds reads of memory that nothing wrote and writes beyond
//! the end:
//!
//! `cargo test --release -p qlora-kernels --features cuda --test device`
#![cfg(feature = "cuda")]

mod attention;
mod fixture;
mod open;
mod transfers;
