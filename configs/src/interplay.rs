//! Keys that another key, or the length of the run, leaves without an effect.
//!
//! Only keys that a person wrote are judged, by the layer that wrote them last. A later layer may
//! overrule a key without a message: that is what layers are for. A key beside the one that
//! overrules it gets a warning. A key that is laid over a file and still has no effect is refused,
//! because its writer expects it to act.

use crate::base::is_gguf_name;
use crate::schema::{
    Batching, Checkpointing, Compute, DeviceKind, FlashAttention, Quantization, Schedule,
    TrainingConfig,
};
use crate::words::count;

/// A key that has no effect, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    pub key: &'static str,
    /// What follows the key's name in a sentence.
    pub fault: String,
    pub help: &'static str,
    /// The run would not be what was asked for.
    pub is_refused: bool,
}

/// How late a key was written: 0 by nobody, then file, variables, flags.
pub(crate) type Rank<'a> = &'a dyn Fn(&str) -> usize;

/// What makes `key` idle.
struct Rule {
    key: &'static str,
    /// The key that overrules it.
    cause: &'static str,
    /// A later `key` was meant to overrule `cause`.
    competes: bool,
    why: fn(&TrainingConfig) -> Option<(String, &'static str)>,
}

const fn rule(
    key: &'static str,
    cause: &'static str,
    why: fn(&TrainingConfig) -> Option<(String, &'static str)>,
) -> Rule {
    Rule {
        key,
        cause,
        competes: false,
        why,
    }
}

const fn competing(
    key: &'static str,
    cause: &'static str,
    why: fn(&TrainingConfig) -> Option<(String, &'static str)>,
) -> Rule {
    Rule {
        key,
        cause,
        competes: true,
        why,
    }
}

const RULES: &[Rule] = &[
    rule("model.double_quant", "model.quantization", |c| {
        let idle = c.model.double_quant && !is_nf4(c);
        idle.then(|| {
            (
                "has no effect: only `model.quantization: nf4` has scales of ours".into(),
                "remove it",
            )
        })
    }),
    rule("model.block_size", "model.quantization", |c| {
        let idle = !is_nf4(c);
        idle.then(|| {
            (
                "has no effect: only `model.quantization: nf4` has scales of ours".into(),
                "remove it",
            )
        })
    }),
    rule("model.compute", "resources.device", |c| {
        let idle = c.model.compute == Compute::F32 && is_gpu(c);
        idle.then(|| {
            (
                format!(
                    "is f32, and `resources.device: {}` computes products in bf16",
                    c.resources.device
                ),
                "remove it, or set `resources.device: cpu`",
            )
        })
    }),
    rule("data.template_date", "data.template", |c| {
        let text = c.data.template.as_str();
        let idle = !crate::template::is_the_models(text) && !text.contains("strftime_now");
        idle.then(|| {
            (
                "has no effect: `data.template` is one that writes no date".into(),
                "remove it",
            )
        })
    }),
    rule("data.batching", "training.micro_batch_size", |c| {
        let idle = c.data.batching == Batching::Grouped && c.training.micro_batch_size == 1;
        idle.then(|| {
            (
                "is grouped, and `training.micro_batch_size: 1` leaves nothing to group".into(),
                "raise `training.micro_batch_size`, or remove it",
            )
        })
    }),
    rule("lora.rslora", "lora.r", |c| {
        let idle = c.lora.rslora && c.lora.r == 1;
        idle.then(|| {
            (
                "has no effect: at `lora.r: 1` both scales are the same".into(),
                "remove it, or raise `lora.r`",
            )
        })
    }),
    competing("training.epochs", "training.max_steps", |c| {
        let steps = c.training.max_steps?;
        Some((
            format!("has no effect: `training.max_steps: {steps}` says how long to train"),
            "remove one of them",
        ))
    }),
    competing("training.warmup_ratio", "training.warmup_steps", |c| {
        let steps = c.training.warmup_steps?;
        Some((
            format!("has no effect: `training.warmup_steps: {steps}` says how long to warm up"),
            "remove one of them",
        ))
    }),
    rule("training.warmup_ratio", "training.schedule", |c| {
        let idle = c.training.warmup_steps.is_none() && c.training.warmup_ratio == 1.0;
        idle.then(|| {
            (
                "is 1: only the last step has the peak rate, and no schedule acts".into(),
                "0.03 is usual",
            )
        })
    }),
    rule("training.decay_ratio", "training.schedule", |c| {
        let idle = c.training.schedule != Schedule::Wsd;
        idle.then(|| {
            (
                "has no effect: only `training.schedule: wsd` reads it".into(),
                "remove it, or set `training.schedule: wsd`",
            )
        })
    }),
    rule("training.schedule", "training.decay_ratio", |c| {
        let idle = c.training.schedule == Schedule::Wsd && c.training.decay_ratio == 0.0;
        idle.then(|| {
            (
                "is wsd, and `training.decay_ratio: 0` leaves no step for its fall".into(),
                "set `training.schedule: constant`, or raise `training.decay_ratio`",
            )
        })
    }),
    rule("training.decay_ratio", "training.warmup_ratio", |c| {
        let t = &c.training;
        let warmup = match (t.warmup_steps, t.max_steps) {
            (None, _) => t.warmup_ratio,
            (Some(warmup), Some(steps)) => warmup as f64 / steps as f64,
            (Some(_), None) => 0.0,
        };
        let idle = t.schedule == Schedule::Wsd && warmup + t.decay_ratio > 1.0;
        idle.then(|| {
            (
                format!(
                    "is {}, and the warm-up leaves only {:.2} of the run for the fall",
                    t.decay_ratio,
                    1.0 - warmup
                ),
                "lower it, or the warm-up",
            )
        })
    }),
    rule("training.min_rate_ratio", "training.schedule", |c| {
        let idle = c.training.min_rate_ratio == 1.0 && c.training.schedule != Schedule::Constant;
        idle.then(|| {
            (
                "is 1: the rate never falls".into(),
                "set `training.schedule: constant`, or lower it",
            )
        })
    }),
    rule("training.offload", "resources.device", |c| {
        let idle =
            c.training.offload && matches!(c.resources.device, DeviceKind::Cpu | DeviceKind::Metal);
        idle.then(|| {
            (
                "has no effect: only a GPU of CUDA has memory of its own to save".into(),
                "remove it",
            )
        })
    }),
    rule("training.offload", "training.gradient_checkpointing", |c| {
        let idle = c.training.offload && c.training.gradient_checkpointing == Checkpointing::Off;
        idle.then(|| {
            (
                "has no effect: `training.gradient_checkpointing: false` keeps everything on the device".into(),
                "set `training.gradient_checkpointing: auto`, or remove it",
            )
        })
    }),
    rule("training.flash_attention", "resources.device", |c| {
        let idle = c.training.flash_attention == FlashAttention::Repeatable
            && matches!(c.resources.device, DeviceKind::Cpu | DeviceKind::Metal);
        idle.then(|| {
            (
                format!(
                    "is repeatable, which `resources.device: {}` always is",
                    c.resources.device
                ),
                "remove it, or set `resources.device: cuda`",
            )
        })
    }),
    rule("training.eval_every", "data.eval", |c| {
        let idle = c.training.eval_every > 0 && c.data.eval.is_none();
        idle.then(|| {
            (
                "has no effect: `data.eval` names no held-out rows".into(),
                "name a file with `data.eval`, or remove it",
            )
        })
    }),
    rule("training.eval_rows", "data.eval", |c| {
        let idle = c.training.eval_rows.is_some() && c.data.eval.is_none();
        idle.then(|| {
            (
                "has no effect: `data.eval` names no held-out rows".into(),
                "name a file with `data.eval`, or remove it",
            )
        })
    }),
    rule(
        "training.checkpoints_to_keep",
        "training.checkpoint_every",
        |c| {
            let idle = c.training.checkpoints_to_keep > 0 && c.training.checkpoint_every == 0;
            idle.then(|| {
                (
                    "has no effect: `training.checkpoint_every: 0` makes no checkpoints on the way"
                        .into(),
                    "set `training.checkpoint_every`, or remove it",
                )
            })
        },
    ),
];

/// Whether the frozen weights are, or may be, quantized by us.
fn is_nf4(config: &TrainingConfig) -> bool {
    let is_file = config.model.base.as_deref().is_some_and(is_gguf_name);
    match config.model.quantization {
        Quantization::Nf4 => true,
        Quantization::Auto => !is_file,
        Quantization::Gguf | Quantization::None => false,
    }
}

fn is_gpu(config: &TrainingConfig) -> bool {
    matches!(
        config.resources.device,
        DeviceKind::Cuda | DeviceKind::Metal
    )
}

/// Keys of `config` that were written and have no effect, as far as the configuration alone tells.
pub(crate) fn idle(config: &TrainingConfig, rank: Rank<'_>) -> Vec<Idle> {
    let mut found: Vec<Idle> = RULES
        .iter()
        .filter_map(|rule| rule.judge(config, rank))
        .collect();
    if let Some(steps) = config.training.max_steps {
        let limit = rank("training.max_steps");
        let judged = |key: &str| match rank(key) {
            // Whoever names held-out rows and a number of steps in a file wants to see losses on
            // the way; a flag for a short try does not.
            0 => (key == EVAL_EVERY && limit == 1).then_some(" by default"),
            own => (own >= limit).then_some(""),
        };
        found.extend(too_long(config, steps, &judged));
    }
    found
}

impl Rule {
    fn judge(&self, config: &TrainingConfig, rank: Rank<'_>) -> Option<Idle> {
        let (own, cause) = (rank(self.key), rank(self.cause));
        if own == 0 || own < cause {
            return None;
        }
        let (fault, help) = (self.why)(config)?;
        let is_refused = self.competes && own > cause && cause > 0;
        let help = if is_refused {
            "remove the other one, or set it to null"
        } else {
            help
        };
        Some(Idle {
            key: self.key,
            fault,
            help,
            is_refused,
        })
    }
}

/// What a run of `steps` steps leaves without an effect. Whoever learns the number of steps from
/// the data asks before the first step; with `training.max_steps` it was told when the
/// configuration was read.
pub fn idle_in(config: &TrainingConfig, steps: u64) -> Vec<Idle> {
    if config.training.max_steps.is_some() {
        return Vec::new();
    }
    let mut found = never_looked(config, steps);
    // A recorded configuration does not tell what was written; what differs from the default was.
    let t = &config.training;
    let judged = |key: &str| match key {
        EVAL_EVERY => Some(""),
        CHECKPOINT_EVERY => (t.checkpoint_every != 50).then_some(""),
        _ => (t.max_skipped_steps != 5).then_some(""),
    };
    if found.is_empty() {
        found = too_long(config, steps, &judged);
    }
    found
}

/// Keys that look at held-out losses on the way, in a run that has too few of them.
fn never_looked(config: &TrainingConfig, steps: u64) -> Vec<Idle> {
    let t = &config.training;
    let every = t.eval_every;
    let looks = steps.saturating_sub(1).checked_div(every).unwrap_or(0);
    let asked = [
        (t.early_stopping, "training.early_stopping"),
        (u64::from(t.keep_best), "training.keep_best"),
    ];
    let short = asked.into_iter().filter(|(wanted, _)| *wanted > looks);
    let fault = |(wanted, key)| Idle {
        key,
        fault: match looks {
            0 => format!(
                "can never act: `training.eval_every` is {every}, and the run ends after {}",
                count(steps, "step")
            ),
            _ => format!(
                "is {wanted}, and the run of {} has only {} on its way",
                count(steps, "step"),
                count(looks, "evaluation")
            ),
        },
        help: "set a smaller `training.eval_every`",
        is_refused: true,
    };
    short.map(fault).collect()
}

const EVAL_EVERY: &str = "training.eval_every";
const CHECKPOINT_EVERY: &str = "training.checkpoint_every";
const MAX_SKIPPED_STEPS: &str = "training.max_skipped_steps";

/// Intervals that are longer than the run. `judged` says which keys count, and who set them.
fn too_long(
    config: &TrainingConfig,
    steps: u64,
    judged: &dyn Fn(&str) -> Option<&'static str>,
) -> Vec<Idle> {
    let t = &config.training;
    let is_long = |every: u64| every > 0 && every >= steps && steps > 1;
    let part = "set it to a part of the steps, or to 0 if that is meant";
    let all = [
        (
            EVAL_EVERY,
            t.eval_every,
            config.data.eval.is_some() && is_long(t.eval_every),
            "held-out rows are evaluated only before and after it",
            part,
        ),
        (
            CHECKPOINT_EVERY,
            t.checkpoint_every,
            is_long(t.checkpoint_every),
            "it saves nothing on the way",
            part,
        ),
        (
            MAX_SKIPPED_STEPS,
            t.max_skipped_steps,
            t.max_skipped_steps > steps,
            "it can never end the run",
            "lower it",
        ),
    ];
    let idle = |(key, value, is_idle, so, help): (&'static str, u64, bool, &str, &'static str)| {
        let by = judged(key).filter(|_| is_idle)?;
        let fault = format!(
            "is {value}{by}, and the run ends after {}: {so}",
            count(steps, "step")
        );
        Some(Idle {
            key,
            fault,
            help,
            is_refused: false,
        })
    };
    all.into_iter().filter_map(idle).collect()
}
