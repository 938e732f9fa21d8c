//! The shape of a training configuration, one file a section. The comment of a field, of its type
//! and of each word that it takes is what the reference and editors say of the key. Defaults are in
//! `presets/defaults.yaml`, ranges in `ranges.rs`.

mod data;
mod lora;
mod model;
mod resources;
mod training;
mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::{Batching, DataConfig, TEMPLATE_DATE, TooLong};
pub(crate) use lora::ALL_LINEAR;
pub use lora::{LoraConfig, TargetModule};
pub use model::{Compute, ModelConfig, Quantization};
pub use resources::{DeviceKind, ResourceConfig};
pub use training::{OptimizerKind, Schedule, TrainingSection};
pub use words::{Checkpointing, FlashAttention};

/// Characters of a job's name; it stands in every list.
pub const LONGEST_NAME: usize = 200;

/// A whole training run: what is trained, on what, how, and on which kind of machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Name of the job for people, of 200 characters at the most; its number is its identity.
    #[schemars(length(max = LONGEST_NAME))]
    pub name: Option<String>,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub lora: LoraConfig,
    pub training: TrainingSection,
    pub resources: ResourceConfig,
}
