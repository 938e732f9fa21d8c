//! The section `training`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::{Checkpointing, FlashAttention};

/// What configurations have that were recorded before the key was there.
fn checkpoints_to_keep() -> u32 {
    3
}

/// How the adapter is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingSection {
    /// Passes over the training rows, where `training.max_steps` is not set. A step never goes on
    /// into the next epoch; the last one of an epoch takes the passes that are left.
    pub epochs: f64,
    /// Optimizer steps; overrides `training.epochs`.
    pub max_steps: Option<u64>,
    /// Conversations in one forward pass, without padding; with `data.batching: packed`, packs of
    /// `data.max_seq_len` tokens.
    pub micro_batch_size: usize,
    /// Forward passes in one optimizer step.
    pub gradient_accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Share of the steps in which the learning rate rises from 0, at most all but one. The first
    /// step's rate is 0, as in transformers, in runs of a few steps too.
    pub warmup_ratio: f64,
    /// Steps in which the learning rate rises; overrides `training.warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Share of the steps, at the end, in which the rate of `training.schedule: wsd` falls.
    pub decay_ratio: f64,
    /// Share of the peak rate below which `cosine`, `linear` and `wsd` do not fall.
    pub min_rate_ratio: f64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    pub optimizer: OptimizerKind,
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Term of the denominator of an update.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    pub gradient_checkpointing: Checkpointing,
    /// On a CUDA GPU, inputs of blocks are offloaded to pinned host memory where the GPU has no room
    /// for them, for very long sequences; copies overlap with computation. Needs host memory of
    /// layers x tokens x width x 2 bytes.
    pub offload: bool,
    pub flash_attention: FlashAttention,
    /// Seed of adapters, of the order of rows, of dropout and of noise.
    pub seed: u64,
    /// Steps between evaluations; 0 means only before the first step and after the last.
    pub eval_every: u64,
    /// Held-out rows to evaluate; all where none is given.
    pub eval_rows: Option<usize>,
    /// Give the adapter with the lowest held-out loss instead of the last one.
    pub keep_best: bool,
    /// Evaluations in a row without a lower held-out loss after which the run ends; 0 means never.
    pub early_stopping: u64,
    /// Strength of the noise on embeddings while training (NEFTune, Jain et al., 2023): 5 is usual,
    /// 0 turns it off.
    pub neftune_alpha: f64,
    /// Steps between checkpoints; 0 means only when told to stop.
    pub checkpoint_every: u64,
    /// Newest checkpoints that the coordinator keeps of a job; 0 keeps all.
    #[serde(default = "checkpoints_to_keep")]
    pub checkpoints_to_keep: u32,
    /// Non-finite steps in a row after which the run stops.
    pub max_skipped_steps: u64,
}

/// The rule of an update, and how its state is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW with moments in f32: 8 bytes a trained parameter.
    Adamw,
    /// AdamW with moments in 8 bits as in bitsandbytes: 2 bytes a trained parameter; tensors under
    /// 4,096 parameters stay in f32.
    Adamw8bit,
}

/// How the learning rate changes over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Warm-up, then half a cosine down.
    Cosine,
    /// Warm-up, then a straight line down.
    Linear,
    /// Warm-up, then the peak rate.
    Constant,
    /// Warm-up, then the peak rate, then a straight line down in the last steps.
    Wsd,
}
