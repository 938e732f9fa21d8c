//! Keys that only make sense together. A combination that is refused here is meaningless, whoever
//! wrote it. `interplay.rs` finds keys that merely have no effect.

use qlora_codes::Code;

use crate::base::is_gguf_name;
use crate::diagnostic::{Diagnostic, Place};
use crate::faults::Faults;
use crate::schema::{DeviceKind, FlashAttention, Quantization, Schedule, TrainingConfig};
use crate::words::count;

/// The key that asks for NF4 blocks.
const QUANTIZATION: &str = "model.quantization";
const QUANTIZED_TWICE: &str =
    "`model.quantization: nf4` would quantize the blocks of a GGUF file a second time";
const OWN_BLOCKS: &str = "leave `model.quantization: auto` to train on the file's own blocks";

/// The fault of NF4 over a GGUF file, for callers who know that a model's name stands for one;
/// `place` is asked where the key was written.
pub fn quantized_twice(place: impl FnOnce(&str) -> Option<Place>) -> Diagnostic {
    Diagnostic {
        code: Code::InvalidValue,
        message: QUANTIZED_TWICE.into(),
        place: place(QUANTIZATION),
        help: Some(OWN_BLOCKS.into()),
    }
}

/// Faults of keys that contradict each other.
pub(crate) fn check(config: &TrainingConfig, faults: &mut Faults) {
    held_out(config, faults);
    schedule(config, faults);
    resources(config, faults);
}

/// Keys that look at held-out loss need held-out rows.
fn held_out(config: &TrainingConfig, faults: &mut Faults) {
    let t = &config.training;
    for (asked, key) in [
        (t.keep_best, "training.keep_best"),
        (t.early_stopping > 0, "training.early_stopping"),
    ] {
        faults.require(
            !asked || config.data.eval.is_some(),
            key,
            || format!("`{key}` needs held-out rows, and `data.eval` is missing"),
            "name a file of conversations that are not trained on, such as `data.eval: eval.jsonl`",
        );
    }
    // Keys that look at held-out loss on the way need evaluations on the way.
    let evaluates = t.eval_every > 0 && t.max_steps.is_none_or(|steps| t.eval_every < steps);
    let asked = [
        (t.early_stopping > 0, "training.early_stopping"),
        (t.keep_best, "training.keep_best"),
    ];
    for (_, key) in asked
        .into_iter()
        .filter(|(asked, _)| *asked && config.data.eval.is_some() && !evaluates)
    {
        faults.require(
            false,
            key,
            || match t.max_steps {
                Some(steps) if t.eval_every > 0 => format!(
                    "`{key}` can never act: `training.eval_every` is {}, and the run ends after {}",
                    t.eval_every,
                    count(steps, "step")
                ),
                _ => format!("`{key}` can never act: `training.eval_every: 0` evaluates only before and after the run"),
            },
            "set `training.eval_every` to a part of the run's steps",
        );
    }
}

/// Keys of the schedule that the run or another key leaves no room for.
fn schedule(config: &TrainingConfig, faults: &mut Faults) {
    let t = &config.training;
    if let (Some(warmup), Some(steps)) = (t.warmup_steps, t.max_steps) {
        faults.require(
            warmup < steps || steps == 0,
            "training.warmup_steps",
            || {
                let steps = count(steps, "step");
                format!(
                    "`training.warmup_steps` is {warmup}, and the run has {steps}: it would never reach its peak rate"
                )
            },
            "lower it, or leave it out to warm up for `training.warmup_ratio` of the run",
        );
    }
    faults.require(
        t.min_rate_ratio == 0.0 || t.schedule != Schedule::Constant,
        "training.min_rate_ratio",
        || {
            format!(
                "`training.min_rate_ratio` is {}, and `training.schedule: constant` never falls",
                t.min_rate_ratio
            )
        },
        "leave it out, or set another schedule",
    );
    let stops = t.early_stopping > 0 && t.eval_every > 0;
    if let Some(steps) = t.max_steps.filter(|steps| stops && t.eval_every < *steps) {
        faults.require(
            t.early_stopping <= (steps - 1) / t.eval_every,
            "training.early_stopping",
            || {
                format!(
                    "`training.early_stopping` is {}, and the run of {} has only {} on its way",
                    t.early_stopping,
                    count(steps, "step"),
                    count((steps - 1) / t.eval_every, "evaluation")
                )
            },
            "lower it, or set a smaller `training.eval_every`",
        );
    }
}

fn resources(config: &TrainingConfig, faults: &mut Faults) {
    let r = &config.resources;
    let pieces = config.training.gradient_accumulation;
    faults.require(
        r.workers == 0 || pieces.is_multiple_of(r.workers),
        "resources.workers",
        || {
            format!(
                "`resources.workers` is {}, which does not divide `training.gradient_accumulation` {pieces}",
                r.workers
            )
        },
        "each worker computes the same number of a step's micro-batches; 1, 2, 4 and 8 give the same adapter",
    );
    let flash_without_cuda = config.training.flash_attention == FlashAttention::Required
        && matches!(r.device, DeviceKind::Metal | DeviceKind::Cpu);
    faults.require(
        !flash_without_cuda,
        "training.flash_attention",
        || {
            format!(
                "`training.flash_attention: required` cannot be met with `resources.device: {}`",
                r.device
            )
        },
        "use `auto` or `off` there",
    );
    let cudnn_elsewhere = config.training.flash_attention == FlashAttention::Cudnn
        && !matches!(r.device, DeviceKind::Cuda);
    faults.require(
        !cudnn_elsewhere,
        "training.flash_attention",
        || {
            format!(
                "`training.flash_attention: cudnn` needs `resources.device: cuda`, not `{}`",
                r.device
            )
        },
        "use `auto`, which takes cuDNN where it is there and faster",
    );
    let named_gguf = config.model.base.as_deref().is_some_and(is_gguf_name);
    faults.require(
        !(named_gguf && config.model.quantization == Quantization::Nf4),
        QUANTIZATION,
        || QUANTIZED_TWICE.into(),
        OWN_BLOCKS,
    );
}
