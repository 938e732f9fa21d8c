//! NVIDIA's GPUs: launches of the kernels beside this file.
//!
//! An operation's launches stand in the file of its name. `tests/device` holds them against the
//! reference forms, on a GPU or on the emulated one of `tests/emulated`; how fast they are, only a
//! GPU can show. A launch checks element types and sizes before anything is sent to the device.

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
