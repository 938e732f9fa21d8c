//! What a run does with its device's memory. Data only: `search` chooses it, `estimate` counts its
//! bytes, the trainer carries it out.

use qlora_config::DeviceKind;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::saved::SavedActivations;
use crate::shape::ModelShape;

/// What a run does with a device's memory. No policy changes a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPolicy {
    pub low_memory: LowMemory,
    /// What each block saves between forward and backward; the rest is computed again.
    pub saved: Vec<SavedActivations>,
    /// Blocks at the end whose frozen weights are held in bf16, instead of being dequantized twice
    /// a step.
    pub dequantized: usize,
}

/// What a run does where memory is short, each with those before it. It costs little time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LowMemory {
    #[default]
    Off,
    /// Fewer rows of logits at one time.
    FewLogits,
    /// The embedding is offloaded to host memory, and only the rows of a micro-batch come to the
    /// GPU. One that serves as the output layer too stays there.
    HostEmbedding,
}

impl LowMemory {
    pub const ALL: [Self; 3] = [Self::Off, Self::FewLogits, Self::HostEmbedding];

    /// The most that a device of `kind` can do.
    pub fn most(kind: DeviceKind) -> Self {
        if Device::of(kind).offloads {
            Self::HostEmbedding
        } else {
            Self::Off
        }
    }

    /// Rows of logits that are held at one time.
    pub fn logit_rows(self, kind: DeviceKind) -> usize {
        self.rows_of(Device::of(kind))
    }

    pub(crate) fn rows_of(self, device: &Device) -> usize {
        let (full, few) = device.logit_rows;
        if self < Self::FewLogits { full } else { few }
    }

    pub fn embedding_on_host(self, shape: &ModelShape) -> bool {
        self >= Self::HostEmbedding && !shape.tied_embeddings
    }
}
