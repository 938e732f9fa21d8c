//! The training configuration: its schema, how layers are laid over one another, and what makes it
//! valid.
//!
//! ```text
//! presets/defaults.yaml <- extends: h100 | m4 | cpu <- your file <- QLORA__SECTION__KEY <- --set section.key=value
//! ```
//!
//! A [`ResolvedConfig`] exists only after every check has passed, so whoever holds one need not
//! check again. This crate reads no file and no environment: texts and variables are arguments. It
//! does not know whether a model or a data file exists; that is asked where they are opened.

mod agree;
mod base;
mod diagnostic;
mod explain;
mod faults;
mod foreign;
mod interplay;
mod json_schema;
mod known;
mod layer;
mod layers;
mod limits;
mod locate;
mod nested;
mod presets;
mod ranges;
mod resolved;
mod rewrite;
mod schema;
mod template;
mod validate;
mod visible;
mod words;
mod yaml;

pub use agree::quantized_twice;
pub use base::{hub_name_fault, is_gguf_name, is_hub_name};
pub use diagnostic::{ConfigErrors, Diagnostic, Location, Place, Warning};
pub use interplay::{Idle, idle_in};
pub use json_schema::json_schema;
pub use layers::Layers;
pub use presets::{QUICKSTART, QUICKSTART_EVAL, QUICKSTART_TRAIN, preset_names};
pub use ranges::MOST_STEPS;
pub use resolved::ResolvedConfig;
pub use rewrite::rewritten;
pub use schema::{
    Batching, Checkpointing, Compute, DataConfig, DeviceKind, FlashAttention, LONGEST_NAME,
    LoraConfig, ModelConfig, OptimizerKind, Quantization, ResourceConfig, Schedule, TEMPLATE_DATE,
    TargetModule, TooLong, TrainingConfig, TrainingSection,
};
pub use template::{template, unlikely_template};
pub use visible::has_visible;
