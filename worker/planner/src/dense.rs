//! Says that attention holds the scores of every pair of tokens, and which devices need not.

use std::fmt;

use qlora_config::{DeviceKind, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::device::{FlashHeads, flash_heads};
use crate::estimate::attention;
use crate::run::Run;
use crate::shape::ModelShape;
use crate::units::gib;

const KINDS: [DeviceKind; 3] = [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal];

/// Attention that holds the scores of every pair of tokens: memory that grows with the square of
/// `data.max_seq_len`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseAttention {
    pub kind: DeviceKind,
    pub head_dim: usize,
    /// Bytes of one sequence's scores and what is computed with them.
    pub bytes: u64,
}

/// What attention of `config` holds on a device of `kind` that has no flash attention for the heads
/// of `shape`; none where it has.
pub fn dense_attention(
    shape: &ModelShape,
    config: &TrainingConfig,
    kind: DeviceKind,
) -> Option<DenseAttention> {
    let bytes = attention::dense(&Run::new(shape, config, kind));
    (bytes > 0).then_some(DenseAttention {
        kind,
        head_dim: shape.head_dim,
        bytes,
    })
}

impl DenseAttention {
    /// Kinds of device that have flash attention for such heads.
    fn elsewhere(&self) -> Vec<String> {
        KINDS
            .iter()
            .filter(|&&kind| flash_heads(kind).covers(self.head_dim))
            .map(ToString::to_string)
            .collect()
    }
}

impl fmt::Display for DenseAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes, size) = (self.kind, gib(self.bytes), self.head_dim);
        write!(
            f,
            "attention holds the scores of every pair of tokens, {bytes}: "
        )?;
        match flash_heads(kind) {
            FlashHeads::Of(sizes) => write!(
                f,
                "{kind} has flash attention for heads of {}, and those of this model are of {size}",
                listed(sizes)
            )?,
            FlashHeads::All | FlashHeads::None => write!(f, "{kind} has no flash attention")?,
        }
        match self.elsewhere() {
            kinds if kinds.is_empty() => Ok(()),
            kinds => write!(
                f,
                "; attention on {} (resources.device) holds no scores, and cpu is much slower",
                kinds.join(" or ")
            ),
        }
    }
}

fn listed(sizes: &[usize]) -> String {
    let words: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
