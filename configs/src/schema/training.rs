//! The section `training`.

use serde::{Deserialize, Serialize};

use super::words::{Checkpointing, FlashAttention};

/// What configurations have that were recorded before the key was there.
fn checkpoints_to_keep() -> u32 {
    3
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSection {
    /// Passes over the training rows, where `max_steps` does not say how long to train.
    pub epochs: f64,
    /// Optimizer steps; overrides `epochs`.
    pub max_steps: Option<u64>,
    /// Conversations in one forward pass.
    pub micro_batch_size: usize,
    /// Forward passes in one optimizer step.
    pub gradient_accumulation: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Share of the steps in which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Steps in which it rises; overrides `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Share of the steps, at the end, in which `schedule: wsd` lets the rate fall.
    pub decay_ratio: f64,
    /// Share of the peak rate below which `cosine`, `linear` and `wsd` do not fall.
    pub min_rate_ratio: f64,
    pub weight_decay: f64,
    pub optimizer: OptimizerKind,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    pub gradient_checkpointing: Checkpointing,
    /// Inputs of blocks are offloaded to host memory where a GPU has no room for them.
    pub offload: bool,
    pub flash_attention: FlashAttention,
    pub seed: u64,
    /// Steps between evaluations; 0 means only before the first step and after the last.
    pub eval_every: u64,
    /// Held-out rows to evaluate; all when absent.
    pub eval_rows: Option<usize>,
    /// The adapter with the lowest held-out loss is what the run gives, not the last one.
    pub keep_best: bool,
    /// Evaluations in a row without a lower held-out loss after which the run ends; 0 means never.
    pub early_stopping: u64,
    /// Strength of the noise on embeddings while training (NEFTune, Jain et al., 2023); 0 turns it
    /// off.
    pub neftune_alpha: f64,
    /// Steps between checkpoints; 0 means only after the last.
    pub checkpoint_every: u64,
    /// Checkpoints that the coordinator keeps of a job, the newest ones; 0 keeps all.
    #[serde(default = "checkpoints_to_keep")]
    pub checkpoints_to_keep: u32,
    /// Non-finite steps in a row after which the run stops.
    pub max_skipped_steps: u64,
}

/// The rule of an update, and how its state is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW, its moments in `f32`: eight bytes a trained number.
    Adamw,
    /// AdamW, its moments in 8 bits as in bitsandbytes: two bytes a trained number.
    Adamw8bit,
}

/// How the learning rate changes over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Cosine,
    Linear,
    Constant,
    /// Warm-up, then constant, then a linear fall in the last steps.
    Wsd,
}
