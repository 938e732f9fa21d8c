//! The run whose operations are timed.

use std::sync::Arc;

use candle_core::Device;
use qlora_config::TrainingConfig;
use qlora_kernels::Backend;
use qlora_planner::{MemoryPolicy, ModelShape};

/// The run whose operations are timed.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub shape: &'a ModelShape,
    pub config: &'a TrainingConfig,
    pub policy: &'a MemoryPolicy,
    pub device: &'a Device,
    /// M.
    pub tokens: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// What the run computes with.
    pub backend: &'a Arc<dyn Backend>,
}
