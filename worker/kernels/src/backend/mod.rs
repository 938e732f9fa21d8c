//! Devices, and the code that computes on each: chosen once, when a backend is opened.
//!
//! `reference` is correct on every device, and the others are tested against it; `cpu`, `cuda` and
//! `metal` are native. This file is the only one above them that knows what the program is built
//! with.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod devices;
mod metal;
mod open;
mod operations;
mod properties;
mod reference;

pub use devices::{HAS_CUDA, HAS_METAL, cudnn_version, load_cuda_libraries, open_cuda};
pub use open::{host, on_instructions, open, reference};
pub use operations::{AttentionGrads, AttentionOutput, Backend, Communicator};
