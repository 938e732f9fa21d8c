//! What computes with a model: device, backend, memory policy and decoder, put together in one
//! place for training, scores, measurements and answers.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use qlora_config::{Compute, DeviceKind, FlashAttention, ModelConfig, TrainingConfig};
use qlora_kernels::types::options::{
    self as kernels, AttentionOptions, LoraOptions, Options, WantedAttention,
};
use qlora_kernels::{Backend, backend};
use qlora_planner::{DeviceBudget, MemoryPolicy, ModelShape};

use crate::device::{self, attention_shape};
use crate::error::first_line;
use crate::lora::Adapters;
use crate::model::Decoder;
use crate::weights::Checkpoint;
use crate::{Error, Result, adapter};

/// What a model is loaded for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// Training steps, within the memory of the device.
    Training(&'a TrainingConfig),
    /// Losses, logits and answers: nothing is saved for a backward pass.
    Inference {
        model: &'a ModelConfig,
        attention: FlashAttention,
    },
}

impl Purpose<'_> {
    fn model(&self) -> &ModelConfig {
        match self {
            Self::Training(config) => &config.model,
            Self::Inference { model, .. } => model,
        }
    }

    fn attention(&self) -> FlashAttention {
        match self {
            Self::Training(config) => config.training.flash_attention,
            Self::Inference { attention, .. } => *attention,
        }
    }
}

/// What computes with a model.
pub struct Runtime<'a> {
    pub backend: Arc<dyn Backend>,
    pub policy: MemoryPolicy,
    purpose: Purpose<'a>,
}

impl<'a> Runtime<'a> {
    /// On the device of the given kind, for a model of `shape` and sequences of up to `length`
    /// tokens.
    ///
    /// # Errors
    /// There is no such device, or it does not have what the configuration asks for.
    pub fn open(
        kind: DeviceKind,
        shape: &ModelShape,
        purpose: Purpose<'a>,
        length: usize,
    ) -> Result<Self> {
        Self::on(&device::open(kind)?, shape, purpose, length)
    }

    /// [`Self::open`] on a device that is open. What computes each operation is chosen here, once.
    pub fn on(
        device: &Device,
        shape: &ModelShape,
        purpose: Purpose<'a>,
        length: usize,
    ) -> Result<Self> {
        let backend = backend_with(device, shape, purpose, wanted(purpose.attention()), length)?;
        Self::with(backend, shape, purpose)
    }

    /// [`Self::open`] with a backend of the caller's choice.
    pub(crate) fn with(
        backend: Arc<dyn Backend>,
        shape: &ModelShape,
        purpose: Purpose<'a>,
    ) -> Result<Self> {
        let policy = match purpose {
            Purpose::Training(config) => memory_policy(shape, config, &*backend)?,
            Purpose::Inference { .. } => MemoryPolicy::default(),
        };
        Ok(Self {
            backend,
            policy,
            purpose,
        })
    }

    pub fn device(&self) -> &Device {
        self.backend.device()
    }

    /// The model, with positions for `positions` tokens; `progress` hears of every block.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        positions: usize,
        progress: impl FnMut(usize),
    ) -> Result<Decoder> {
        Decoder::load(
            checkpoint,
            self.purpose.model(),
            positions,
            &self.policy,
            &self.backend,
            progress,
        )
    }
}

/// The adapter in `folder` for `decoder`; one that changes nothing where there is none.
pub(crate) fn adapters(folder: Option<&Path>, decoder: &Decoder) -> Result<Adapters> {
    let (shape, device) = (&decoder.shape, &decoder.device);
    match folder {
        Some(folder) => adapter::load(folder, shape, &decoder.fingerprint, 0, device),
        None => Adapters::without_effect(shape, device),
    }
}

/// The backend of a [`Runtime`], with an attention of the caller's choice.
pub(crate) fn backend_with(
    device: &Device,
    shape: &ModelShape,
    purpose: Purpose<'_>,
    wanted: WantedAttention,
    length: usize,
) -> Result<Arc<dyn Backend>> {
    backend::open(device, &options(shape, purpose, wanted, length)).map_err(|fault| match wanted {
        WantedAttention::Flash => Error::Config {
            key: "training.flash_attention",
            fault: format!("cannot be met: {}", first_line(&fault.to_string())),
            help: "set it to auto, with which attention saved the scores of every pair of tokens",
        },
        _ => fault.into(),
    })
}

fn options(
    shape: &ModelShape,
    purpose: Purpose<'_>,
    wanted: WantedAttention,
    length: usize,
) -> Options {
    Options {
        compute: compute(purpose.model()),
        attention: Some(AttentionOptions {
            shape: attention_shape(shape, 0),
            wanted,
            length,
        }),
        lora: match purpose {
            Purpose::Training(config) => Some(LoraOptions {
                rank: config.lora.r,
                widths: [shape.hidden, shape.heads * shape.head_dim, shape.ffn],
            }),
            Purpose::Inference { .. } => None,
        },
    }
}

fn wanted(attention: FlashAttention) -> WantedAttention {
    match attention {
        FlashAttention::Auto => WantedAttention::Fastest,
        FlashAttention::Required => WantedAttention::Flash,
        FlashAttention::Repeatable | FlashAttention::Off => WantedAttention::Repeatable,
        FlashAttention::Cudnn => WantedAttention::Cudnn,
    }
}

fn compute(model: &ModelConfig) -> kernels::Compute {
    match model.compute {
        Compute::Auto => kernels::Compute::Auto,
        Compute::Bf16 => kernels::Compute::Bf16,
        Compute::F32 => kernels::Compute::F32,
    }
}

/// How a run uses the memory of the device that `backend` computes on: all that nobody else holds.
fn memory_policy(
    shape: &ModelShape,
    config: &TrainingConfig,
    backend: &dyn Backend,
) -> Result<MemoryPolicy> {
    let bytes = backend.available_bytes()?;
    let budget = bytes.map(|bytes| DeviceBudget {
        kind: device::kind(backend.device()),
        bytes,
    });
    Ok(qlora_planner::search(shape, config, budget))
}

#[cfg(test)]
mod tests {
    use qlora_testkit::resolved;

    use super::*;

    #[test]
    fn scores_and_training_choose_attention_alike() {
        let shape = qlora_planner::catalogue()[0].shape.clone();
        let mut seen = Vec::new();
        for word in ["auto", "required", "repeatable", "off", "cudnn"] {
            let set = [
                "model.base=tiny",
                "data.train=rows.jsonl",
                "resources.device=cuda",
                &format!("training.flash_attention={word}"),
            ];
            let config = resolved(&[], &set);
            let config = config.config();
            let inference = Purpose::Inference {
                model: &config.model,
                attention: config.training.flash_attention,
            };
            let [trained, scored] = [Purpose::Training(config), inference].map(|purpose| {
                options(&shape, purpose, wanted(purpose.attention()), 300).attention
            });
            assert_eq!(trained, scored, "{word}");
            seen.extend(scored.map(|attention| attention.wanted));
        }
        use WantedAttention::{Cudnn, Fastest, Flash, Repeatable};
        assert_eq!(seen, [Fastest, Flash, Repeatable, Repeatable, Cudnn]);
    }
}
