//! What a run on a GPU does without where memory is short. None of it changes what is learnt, and each costs little time.

use qlora_config::{DeviceKind, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::keep::keeps;
use crate::memory::{DeviceBudget, plan_with};
use crate::shape::ModelShape;

/// Rows of logits that are held at one time: on a GPU enough for a product to fill it, where memory allows.
const LOGIT_ROWS: usize = 256;
const GPU_LOGIT_ROWS: usize = 1024;

/// Each with those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thrift {
    #[default]
    Nothing,
    /// Fewer rows of logits at one time.
    FewLogits,
    /// The embedding lies in the machine's memory, and only the rows of a micro-batch come to the GPU. One that serves as
    /// the output layer too stays there.
    HostEmbedding,
}

impl Thrift {
    pub const EVERY: [Self; 3] = [Self::Nothing, Self::FewLogits, Self::HostEmbedding];

    /// All that can be done without on a device of `kind`.
    pub fn utmost(kind: DeviceKind) -> Self {
        if kind == DeviceKind::Cuda { Self::HostEmbedding } else { Self::Nothing }
    }

    /// Rows of logits that are held at one time.
    pub fn logit_rows(self, kind: DeviceKind) -> usize {
        if kind == DeviceKind::Cuda && self < Self::FewLogits { GPU_LOGIT_ROWS } else { LOGIT_ROWS }
    }

    pub fn embedding_on_host(self, shape: &ModelShape) -> bool {
        self >= Self::HostEmbedding && !shape.tied_embeddings
    }
}

/// The mildest memory-saving level that fits a run that keeps as little of its blocks as the configuration allows; nothing without a
/// budget.
pub fn thrift(shape: &ModelShape, config: &TrainingConfig, budget: Option<DeviceBudget>) -> Thrift {
    let Some(budget) = budget else { return Thrift::Nothing };
    let available = (budget.bytes as f64 * config.resources.memory_fraction) as u64;
    let least = |thrift| keeps(shape, config, None, thrift);
    let fits = |thrift: &Thrift| plan_with(shape, config, budget.kind, &least(*thrift), *thrift).total() <= available;
    let utmost = Thrift::utmost(budget.kind);
    Thrift::EVERY.into_iter().filter(|thrift| *thrift <= utmost).find(fits).unwrap_or(utmost)
}

#[cfg(test)]
mod tests {
    use qlora_config::Layers;

    use super::*;
    use crate::{find, fit};

    #[test]
    fn eight_billion_parameters_are_trained_within_8_gb_at_2048_tokens() {
        let set = ["model.base=llama-3.1-8b-instruct", "model.quantization=nf4", "data.train=rows.jsonl"];
        let more = ["data.max_seq_len=2048", "training.micro_batch_size=1", "resources.memory_fraction=1"];
        let set = set.iter().chain(&more).map(|s| (*s).to_owned()).collect();
        let config = Layers { set, ..Layers::default() }.resolve().expect("a configuration").config().clone();
        let shape = find("llama-3.1-8b-instruct").expect("an entry of the catalogue").shape;
        let on = |gigabytes: f64| DeviceBudget { kind: DeviceKind::Cuda, bytes: (gigabytes * 1e9) as u64 };
        let plan = fit(&shape, &config, on(8.0)).expect("it fits");
        println!("{:.2} GB at the least: {plan:?}", plan.total() as f64 / 1e9);
        let at = |gigabytes: f64| thrift(&shape, &config, Some(on(gigabytes)));
        assert_eq!([80.0, 8.0, 7.0].map(at), Thrift::EVERY);
        assert!(fit(&shape, &config, on(6.0)).is_err());
    }
}
