//! Which activations a block saves between forward and backward.

use std::collections::BTreeMap;
use std::fmt;

use qlora_config::TrainingConfig;
use serde::{Deserialize, Serialize};

use crate::shape::ModelShape;

/// Which activations a block saves; each level includes those above. The adapters' inner results
/// and the norms' sums are always saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedActivations {
    /// Its input, offloaded to host memory.
    OffloadedInput,
    /// Its input.
    Input,
    /// The output of attention, and its sums.
    Attention,
    /// The residual stream after attention, or what goes into the norm before it.
    Residual,
    /// Queries, keys and values, before norms over heads where there are any.
    Qkv,
    /// Gate and up: nothing is computed again.
    All,
}

impl SavedActivations {
    pub const EVERY: [Self; 6] = [
        Self::OffloadedInput,
        Self::Input,
        Self::Attention,
        Self::Residual,
        Self::Qkv,
        Self::All,
    ];

    /// How many blocks save what.
    pub fn counted(saved: &[Self]) -> BTreeMap<Self, usize> {
        let mut counts = BTreeMap::new();
        saved
            .iter()
            .for_each(|&saved| *counts.entry(saved).or_insert(0) += 1);
        counts
    }

    /// Elements that are saved on the device for each token.
    pub fn per_token(self, shape: &ModelShape, config: &TrainingConfig) -> usize {
        self.widths(shape, config).iter().sum()
    }

    /// Widths of the tensors that are saved on the device, each of which has a row for each token.
    pub(crate) fn widths(self, shape: &ModelShape, config: &TrainingConfig) -> Vec<usize> {
        let (q, kv) = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let unscaled = shape
            .targets(&config.lora)
            .into_iter()
            .filter(|_| config.lora.dora)
            .map(|m| shape.projection(m).0);
        // A norm after the feed-forward layer reads what that gave.
        let given = shape.form.norms_after.then_some(shape.hidden);
        let gates = [shape.ffn; 2]
            .into_iter()
            .chain(unscaled)
            .chain(given)
            .collect();
        let parts = [
            vec![shape.hidden],
            vec![q],
            vec![shape.hidden],
            vec![q, kv, kv],
            gates,
        ];
        parts.into_iter().take(self as usize).flatten().collect()
    }
}

impl fmt::Display for SavedActivations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OffloadedInput => "the input, in host memory,",
            Self::Input => "the input",
            Self::Attention => "the output of attention",
            Self::Residual => "the residual stream",
            Self::Qkv => "queries, keys and values",
            Self::All => "everything",
        })
    }
}
