//! NF4 and the operations of the trainer, each forward with its own backward, on every device that
//! there are kernels for.
//!
//! [`backend`] is the way in: [`backend::open`] chooses once what computes each operation on a
//! device, and gives a [`Backend`] whose methods are the operations and whose [`Backend::forms`]
//! lists the choice. [`types`] are the plain data that they take and give; [`host`] holds functions
//! on slices that more than one backend needs. Imports go one way: `types`, then `host`, then
//! `backend`, inside which `reference` comes before the native forms.
//!
//! No function here records a graph: candle's `backward` drops gradients through several of its
//! fused operations without a word and forms gradients of frozen weights, so the trainer calls
//! these backward passes itself. This crate does not know models, adapters or files.
//!
//! Shape letters: B batch, T tokens of one sequence, M tokens of a micro-batch, D hidden, H heads,
//! K key/value heads, E head size, F feed-forward, V vocabulary, R LoRA rank, N packed sequences.

// The one crate of the workspace that may use `unsafe`: calls into SIMD variants and the matrix
// product.
#![allow(unsafe_code)]

pub mod backend;
pub mod host;
mod pairwise;
pub mod types;

pub use backend::Backend;
pub use pairwise::pairwise;
pub use types::activations::Activations;
pub use types::attention::{AttentionSaved, AttentionShape};
pub use types::dropout::DropoutKey;
pub use types::glu::GateFunction;
pub use types::instructions::Instructions;
pub use types::lora::{LoraBackwardInput, LoraInput};
pub use types::matmul::{MatmulBackend, Term};
pub use types::matrix::{BlockMatrix, Matrix, PanelSource, Stored};
pub use types::nf4::{Nf4Scales, Nf4Tensor};
pub use types::norm::NormWeight;
pub use types::properties::DeviceProperties;
pub use types::rope::{RopeAngles, RopeTable};
pub use types::sequences::{Sequences, Span};

/// What an operation fails with: candle's own error, which carries shapes and devices.
pub type Result<T> = candle_core::Result<T>;
