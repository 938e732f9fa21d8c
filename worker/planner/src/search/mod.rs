//! Chooses the memory policy of a run: one that fits a budget and uses it as well as possible.

pub(crate) mod activations;
mod budget;
mod fit;

use qlora_config::{Checkpointing, DeviceKind, Quantization, TrainingConfig};

use crate::catalogue::held;
use crate::estimate::{self, MemoryPlan, dequantized_block};
use crate::policy::{LowMemory, MemoryPolicy};
use crate::run::{DeviceBudget, Run};
use crate::saved::SavedActivations;
use crate::shape::ModelShape;

use self::budget::Search;
pub use self::fit::{DoesNotFit, fit};

/// Uses a budget as well as it can be; without one nothing is done to save memory, and as little is
/// saved of the blocks as the configuration allows.
pub fn search(
    shape: &ModelShape,
    config: &TrainingConfig,
    budget: Option<DeviceBudget>,
) -> MemoryPolicy {
    let Some(budget) = budget else {
        // Nothing of this depends on the device.
        let saved = activations::least(&Run::new(shape, config, DeviceKind::Cpu));
        return MemoryPolicy {
            saved,
            ..MemoryPolicy::default()
        };
    };
    let search = Search {
        run: Run::new(shape, config, budget.kind),
        available: budget.available(config),
    };
    let low_memory = low_memory(&search, budget.kind);
    let saved = activations::saved(&search, low_memory);
    let mut policy = MemoryPolicy {
        low_memory,
        saved,
        dequantized: 0,
    };
    if may_stay_dequantized(&search.run, &policy.saved) {
        let left = search
            .available
            .saturating_sub(estimate::plan(&search.run, &policy).total());
        policy.dequantized = shape
            .layers
            .min((left / dequantized_block(shape, config)) as usize);
    }
    policy
}

/// What takes the least memory on a device of `kind` that the configuration allows.
pub fn least(shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind) -> MemoryPolicy {
    least_with(&Run::new(shape, config, kind), LowMemory::most(kind))
}

/// Predicts the least memory that `config` allows on a device of `kind`.
pub fn plan(shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind) -> MemoryPlan {
    estimate::estimate(shape, config, kind, &least(shape, config, kind))
}

/// Bytes of host memory that a run on a GPU of CUDA keeps its embedding and inputs of blocks in, at
/// the most.
pub fn on_host(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    let kind = DeviceKind::Cuda;
    estimate::on_host(&Run::new(shape, config, kind), &least(shape, config, kind))
}

fn least_with(run: &Run<'_>, low_memory: LowMemory) -> MemoryPolicy {
    MemoryPolicy {
        low_memory,
        saved: activations::least(run),
        dequantized: 0,
    }
}

/// The mildest level that fits a run that saves as little of its blocks as the configuration
/// allows.
fn low_memory(search: &Search<'_>, kind: DeviceKind) -> LowMemory {
    let most = LowMemory::most(kind);
    let fits = |level: &LowMemory| search.fits(&least_with(&search.run, *level));
    LowMemory::ALL
        .into_iter()
        .filter(|level| *level <= most)
        .find(fits)
        .unwrap_or(most)
}

/// A device that is to be used as it is best holds weights dequantized when everything else is
/// saved, where it can. DoRA reads its weights in `f32`.
fn may_stay_dequantized(run: &Run<'_>, saved: &[SavedActivations]) -> bool {
    let config = run.config;
    run.device.holds_dequantized
        && held(&config.model) == Quantization::Nf4
        && config.training.gradient_checkpointing == Checkpointing::Auto
        && !config.lora.dora
        && saved.iter().all(|&saved| saved == SavedActivations::All)
}

#[cfg(test)]
mod tests {
    use qlora_testkit::resolved;

    use super::*;
    use crate::{estimate, find};

    fn on_gpu(gigabytes: u64, set: &[&str]) -> (MemoryPolicy, f64) {
        let common = [
            "model.base=llama-3.1-8b-instruct",
            "model.quantization=nf4",
            "data.train=rows.jsonl",
            "data.max_seq_len=4096",
            "training.micro_batch_size=2",
        ];
        let config = resolved(&common, set).config().clone();
        let shape = find("llama-3.1-8b-instruct")
            .expect("an entry of the catalogue")
            .shape;
        let budget = DeviceBudget {
            kind: DeviceKind::Cuda,
            bytes: gigabytes * 1_000_000_000,
        };
        let found = search(&shape, &config, Some(budget));
        let total = estimate(&shape, &config, DeviceKind::Cuda, &found).total();
        (found, total as f64 / 1e9)
    }

    #[test]
    fn weights_stay_dequantized_where_everything_else_is_saved() {
        let (roomy, total) = on_gpu(80, &[]);
        assert_eq!(
            (roomy.dequantized, &roomy.saved),
            (32, &vec![SavedActivations::All; 32])
        );
        let (tight, least) = on_gpu(80, &["training.gradient_checkpointing=false"]);
        assert_eq!(tight.dequantized, 0);
        // 6.98 billion weights, of which each takes 16 bits instead of 4.127.
        assert!(
            (total - least - 6.979 * (16.0 - 4.127) / 8.0).abs() < 0.01,
            "{total} and {least}"
        );
        let (some, total) = on_gpu(40, &[]);
        assert!(
            some.saved == [SavedActivations::All; 32]
                && (1..32).contains(&some.dequantized)
                && total <= 0.92 * 40.0,
            "{some:?}"
        );
        for (gigabytes, set) in [
            (24, &[][..]),
            (80, &["training.gradient_checkpointing=true"]),
            (80, &["lora.dora=true"]),
        ] {
            assert_eq!(
                on_gpu(gigabytes, set).0.dequantized,
                0,
                "{gigabytes} {set:?}"
            );
        }
    }

    #[test]
    fn eight_billion_parameters_are_trained_within_8_gb_at_2048_tokens() {
        let set = [
            "model.base=llama-3.1-8b-instruct",
            "model.quantization=nf4",
            "data.train=rows.jsonl",
        ];
        let more = [
            "data.max_seq_len=2048",
            "training.micro_batch_size=1",
            "resources.memory_fraction=1",
        ];
        let config = resolved(&set, &more).config().clone();
        let shape = find("llama-3.1-8b-instruct")
            .expect("an entry of the catalogue")
            .shape;
        let on = |gigabytes: f64| DeviceBudget {
            kind: DeviceKind::Cuda,
            bytes: (gigabytes * 1e9) as u64,
        };
        let plan = fit(&shape, &config, on(8.0)).expect("it fits");
        println!("{:.2} GB at the least: {plan:?}", plan.total() as f64 / 1e9);
        let at = |gigabytes: f64| search(&shape, &config, Some(on(gigabytes))).low_memory;
        assert_eq!([80.0, 8.0, 7.0].map(at), LowMemory::ALL);
        assert!(fit(&shape, &config, on(6.0)).is_err());
    }
}
