//! The fast forms on a GPU against the reference forms on the CPU, at sizes that are multiples of
//! nothing. Needs the `cuda` feature and a GPU, or the emulated one of `emulated/build.sh`, which
//! also finds reads of memory that nothing wrote and writes beyond the end:
//!
//! `cargo test --release -p qlora-kernels --features cuda --test device`
#![cfg(feature = "cuda")]

mod adapters;
mod attention;
mod elements;
mod fixture;
mod loss;
mod nf4;
mod open;
mod products;
mod transfers;
mod updates;
