//! The CUDA backend: launches of kernels, memory, offloading, libraries and NCCL.
//!
//! Each operation's launches are in the file that is named after it, beside its `.cu` file where it
//! has one. `tests/operations` compares them with their formulas, on a GPU or on the emulated one of
//! `tests/emulated`; only a GPU shows how fast they are. A launch checks element types and sizes before
//! anything is sent to the device.

mod adamw;
mod adamw8;
mod adamw_tables;
mod attention;
pub(crate) mod backend;
mod buffer;
pub(crate) mod choice;
mod columns;
mod copies;
mod cross_entropy;
#[cfg(feature = "cudnn")]
mod cudnn;
mod dropout;
mod forms;
mod glu;
mod gpu;
mod launch;
pub(crate) mod libraries;
mod lora;
mod matmul;
mod memory;
mod modules;
mod nccl;
mod nf4;
mod offload;
pub(crate) mod open;
mod plans;
mod prefetch;
mod rms_norm;
mod rope;
mod rows;
mod tiles;
