//! Whether a run fits a budget, and the smallest changes with which it would.

use qlora_config::{Checkpointing, TrainingConfig};
use serde::{Deserialize, Serialize};

use super::plan;
use crate::dense::{DenseAttention, dense_attention};
use crate::estimate::MemoryPlan;
use crate::run::DeviceBudget;
use crate::shape::ModelShape;
use crate::units::gib;

/// A run that needs more than there is, and changes that would make it fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error(
    "needs {}, {} may be used{}{}",
    gib(*needed),
    gib(*available),
    because(.cause.as_ref()),
    advice(.suggestions)
)]
pub struct DoesNotFit {
    pub needed: u64,
    pub available: u64,
    /// Without it the run would fit; or it alone does not.
    pub cause: Option<DenseAttention>,
    /// Such as `data.max_seq_len: 1536`; each alone is enough.
    pub suggestions: Vec<String>,
}

fn because(cause: Option<&DenseAttention>) -> String {
    cause.map_or_else(String::new, |dense| format!("; {dense}"))
}

fn advice(suggestions: &[String]) -> String {
    if suggestions.is_empty() {
        String::new()
    } else {
        format!("; fits with {}", suggestions.join(", or "))
    }
}

/// [`plan`], held against a budget.
///
/// # Errors
/// It does not fit; the error names the smallest changes that would.
pub fn fit(
    shape: &ModelShape,
    config: &TrainingConfig,
    budget: DeviceBudget,
) -> Result<MemoryPlan, DoesNotFit> {
    let available = budget.available(config);
    let wanted = plan(shape, config, budget.kind);
    if wanted.total() <= available {
        return Ok(wanted);
    }
    let needed = wanted.total();
    let decides =
        |dense: &DenseAttention| dense.bytes >= needed - available || dense.bytes > available;
    let fits = |changed: &TrainingConfig| plan(shape, changed, budget.kind).total() <= available;
    Err(DoesNotFit {
        needed,
        available,
        cause: dense_attention(shape, config, budget.kind).filter(decides),
        suggestions: suggestions(config, fits),
    })
}

fn suggestions(config: &TrainingConfig, fits: impl Fn(&TrainingConfig) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if config.training.gradient_checkpointing == Checkpointing::Off {
        let mut changed = config.clone();
        changed.training.gradient_checkpointing = Checkpointing::Auto;
        if fits(&changed) {
            found.push("training.gradient_checkpointing: auto".into());
        }
    }
    if let Some(text) = smaller_batch(config, &fits) {
        found.push(text);
    }
    if let Some(length) = longest(config, &fits) {
        found.push(format!("data.max_seq_len: {length}"));
    }
    found
}

/// A smaller micro-batch with the same effective batch.
fn smaller_batch(
    config: &TrainingConfig,
    fits: &impl Fn(&TrainingConfig) -> bool,
) -> Option<String> {
    let batch = config.training.micro_batch_size * config.training.gradient_accumulation;
    let mut changed = config.clone();
    (1..config.training.micro_batch_size).rev().filter(|size| batch.is_multiple_of(*size)).find_map(|size| {
        changed.training.micro_batch_size = size;
        let accumulation = batch / size;
        fits(&changed)
            .then(|| format!("training.micro_batch_size: {size} with training.gradient_accumulation: {accumulation}"))
    })
}

fn longest(config: &TrainingConfig, fits: &impl Fn(&TrainingConfig) -> bool) -> Option<usize> {
    let mut changed = config.clone();
    (1..=config.data.max_seq_len / 128)
        .rev()
        .map(|n| n * 128)
        .filter(|&n| n < config.data.max_seq_len)
        .find(|&length| {
            changed.data.max_seq_len = length;
            fits(&changed)
        })
}
