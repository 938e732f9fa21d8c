//! QLoRA training on candle: frozen quantized weights, LoRA adapters, and a backward pass written
//! by hand.
//!
//! A decoder block is a forward pass that can throw away everything but its input, and a backward
//! pass that takes what was kept (or runs the block again) and returns the gradient of the input
//! together with those of its adapters. No graph is recorded and no gradient of a frozen weight is
//! ever formed.
//!
//! The entry point is [`run::Run`]: it loads, proves, trains, evaluates, saves, and reports through
//! [`report::Reporter`]. This crate knows no network, no coordinator and no process: its caller
//! delivers what it reports.
//!
//! Shape letters are those of `qlora-kernels`.

pub mod adapter;
mod advice;
mod any_number;
pub mod bench;
pub mod best;
pub mod checkpoint;
pub mod device;
mod error;
pub mod export;
pub mod generate;
pub mod lora;
pub mod metal;
pub mod model;
pub mod optim;
pub mod partial;
pub mod process_group;
pub mod proof;
pub mod report;
pub mod run;
pub mod runtime;
pub mod score;
pub mod scores;
pub mod step;
pub mod stop;
pub mod weights;

pub use error::{Error, FailureClass, Result};
