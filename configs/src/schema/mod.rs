//! The shape of a training configuration, one file a section. Units and meanings stand at each
//! field; defaults in `presets/defaults.yaml`.

mod data;
mod lora;
mod model;
mod resources;
mod training;
mod words;

use serde::{Deserialize, Serialize};

pub use data::{Batching, DataConfig, TEMPLATE_DATE, TooLong};
pub(crate) use lora::ALL_LINEAR;
pub use lora::{LoraConfig, TargetModule};
pub use model::{Compute, ModelConfig, Quantization};
pub use resources::{DeviceKind, ResourceConfig};
pub use training::{OptimizerKind, Schedule, TrainingSection};
pub use words::{Checkpointing, FlashAttention};

/// A whole training run: what is trained, on what, how, and on which kind of machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// A name for people; the job's number is its identity.
    pub name: Option<String>,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub lora: LoraConfig,
    pub training: TrainingSection,
    pub resources: ResourceConfig,
}
