//! NF4 and the fused operations of the trainer, each forward with its own backward.
//!
//! An operation in [`ops`] is a function on candle tensors. It has a *reference form*, written in candle's own
//! operations and therefore right on every device, and where it pays a *fast form* in [`cpu`] on plain slices;
//! the tests hold the second against the first. Which one runs is decided by device and element type alone.
//!
//! No function here records a graph: candle's `backward` drops gradients through several of its fused
//! operations without a word and forms gradients of frozen weights, so the trainer calls these backward passes
//! itself. This crate does not know models, adapters or files.
//!
//! Shape letters: B batch, T tokens of one sequence, M tokens of a micro-batch, D hidden, H heads, K key/value
//! heads, E head size, F feed-forward, V vocabulary, R LoRA rank, N packed sequences.

// The one crate of the workspace that may use `unsafe`: calls into SIMD variants and the matrix product.
#![allow(unsafe_code)]

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod ops;
mod pairwise;
mod view;

pub use cpu::bf16::{Instructions, Strips};
pub use ops::activations::Activations;
pub use ops::attention::AttentionShape;
pub use ops::dropout::DropoutKey;
pub use ops::nf4::{Nf4Scales, Nf4Tensor};
pub use ops::product::{Matrix, Products, Term};
pub use ops::rope::RopeTable;
pub use ops::sequences::{Sequences, Span};
pub use pairwise::pairwise;

/// What an operation fails with: candle's own error, which carries shapes and devices.
pub type Result<T> = candle_core::Result<T>;
