//! How a run uses the memory that its device has: what it does without, what it keeps, and what it holds twice as large.

use qlora_config::{Checkpointing, DeviceKind, Quantization, TrainingConfig};

use crate::catalogue::held;
use crate::keep::{Keep, keeps};
use crate::memory::{DeviceBudget, MemoryPlan, plan_with, quantised_bits};
use crate::shape::ModelShape;
use crate::thrift::{Thrift, thrift};

/// What a run does with a device's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrangement {
    pub thrift: Thrift,
    /// Of each block.
    pub keeps: Vec<Keep>,
    /// Blocks at the end whose frozen weights are held in bf16, as their codes stand for, instead of being dequantised twice
    /// a step. It changes no result.
    pub written_out: usize,
}

impl Arrangement {
    /// What takes the least memory on a device of `kind` that the configuration allows.
    pub fn least(shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind) -> Self {
        let thrift = Thrift::utmost(kind);
        Self { thrift, keeps: keeps(shape, config, None, thrift), written_out: 0 }
    }

    /// The memory of a run that is so arranged on a device of `kind`.
    pub fn plan(&self, shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind) -> MemoryPlan {
        let mut plan = plan_with(shape, config, kind, &self.keeps, self.thrift);
        plan.weights += self.written_out as u64 * more_for_a_block(shape, config);
        plan
    }
}

/// Uses a budget as well as it can be; without one nothing is done without, and as little is kept as the configuration
/// allows.
pub fn arrange(shape: &ModelShape, config: &TrainingConfig, budget: Option<DeviceBudget>) -> Arrangement {
    let thrift = thrift(shape, config, budget);
    let keeps = keeps(shape, config, budget, thrift);
    let mut arrangement = Arrangement { thrift, keeps, written_out: 0 };
    if let Some(budget) = budget.filter(|budget| may_be_written_out(config, *budget, &arrangement.keeps)) {
        let available = (budget.bytes as f64 * config.resources.memory_fraction) as u64;
        let left = available.saturating_sub(arrangement.plan(shape, config, budget.kind).total());
        arrangement.written_out = shape.layers.min((left / more_for_a_block(shape, config)) as usize);
    }
    arrangement
}

/// Memory is spent so on a GPU that is to be used as it is best, when everything else is kept. DoRA reads its weights in
/// `f32`.
fn may_be_written_out(config: &TrainingConfig, budget: DeviceBudget, keeps: &[Keep]) -> bool {
    budget.kind == DeviceKind::Cuda
        && held(&config.model) == Quantization::Nf4
        && config.training.gradient_checkpointing == Checkpointing::Auto
        && !config.lora.dora
        && keeps.iter().all(|&keep| keep == Keep::All)
}

/// Bytes that the weights of a block take in bf16 beyond their codes and scales.
fn more_for_a_block(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    (shape.block_parameters() as f64 * (16.0 - quantised_bits(config)) / 8.0) as u64
}

#[cfg(test)]
mod tests {
    use qlora_config::Layers;

    use super::*;
    use crate::find;

    fn on_gpu(gigabytes: u64, set: &[&str]) -> (Arrangement, f64) {
        let common = ["model.base=llama-3.1-8b-instruct", "model.quantization=nf4", "data.train=rows.jsonl"];
        let sizes = ["data.max_seq_len=4096", "training.micro_batch_size=2"];
        let set = common.iter().chain(&sizes).chain(set).map(|s| (*s).to_owned()).collect();
        let config = Layers { set, ..Layers::default() }.resolve().expect("a configuration").config().clone();
        let shape = find("llama-3.1-8b-instruct").expect("an entry of the catalogue").shape;
        let budget = DeviceBudget { kind: DeviceKind::Cuda, bytes: gigabytes * 1_000_000_000 };
        let found = arrange(&shape, &config, Some(budget));
        let total = found.plan(&shape, &config, DeviceKind::Cuda).total();
        (found, total as f64 / 1e9)
    }

    #[test]
    fn weights_are_written_out_where_everything_else_is_kept() {
        let (roomy, total) = on_gpu(80, &[]);
        assert_eq!((roomy.written_out, &roomy.keeps), (32, &vec![Keep::All; 32]));
        let (tight, least) = on_gpu(80, &["training.gradient_checkpointing=false"]);
        assert_eq!(tight.written_out, 0);
        // 6.98 billion weights, of which each takes 16 bits instead of 4.127.
        assert!((total - least - 6.979 * (16.0 - 4.127) / 8.0).abs() < 0.01, "{total} and {least}");
        let (some, total) = on_gpu(40, &[]);
        assert!(
            some.keeps == [Keep::All; 32] && (1..32).contains(&some.written_out) && total <= 0.92 * 40.0,
            "{some:?}"
        );
        for (gigabytes, set) in
            [(24, &[][..]), (80, &["training.gradient_checkpointing=true"]), (80, &["lora.dora=true"])]
        {
            assert_eq!(on_gpu(gigabytes, set).0.written_out, 0, "{gigabytes} {set:?}");
        }
    }
}
