//! The range of every number of the configuration, once: `validate.rs` refuses by it, and the JSON
//! Schema and the reference state it.

use std::fmt::{self, Display};

use crate::limits::Limits::{self, Below, From, PowerOfTwo, UpTo, Within};
use crate::schema::TrainingConfig;

/// What one number may be.
pub(crate) struct Range {
    pub key: &'static str,
    pub limits: Limits,
    /// What is counted, in the plural; empty where the number has no unit.
    pub unit: &'static str,
    /// The way out; empty where the type alone refuses what is outside.
    help: &'static str,
    value: fn(&TrainingConfig) -> Option<Number>,
}

impl Range {
    /// Why the value that `config` has is refused, and the way out.
    pub fn fault(&self, config: &TrainingConfig) -> Option<(String, &'static str)> {
        let value = (self.value)(config)?;
        let fault = if self.limits.hold(value.as_f64()) {
            self.limits.lost_in_single(value.as_f64())?
        } else {
            self.limits.fault(value.as_f64(), self.unit)
        };
        Some((format!("`{}` is {value}, {fault}", self.key), self.help))
    }
}

/// A number as it is written in messages: 8 and not 8.0.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(u64),
    Real(f64),
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) if has_many_zeros(*number) => write!(f, "{number:e}"),
            Self::Real(number) => number.fmt(f),
        }
    }
}

/// Whether nobody could count the zeros of a number that is printed in digits.
fn has_many_zeros(number: f64) -> bool {
    let size = number.abs();
    size >= 1e12 || size > 0.0 && size < 1e-6
}

/// A key's value, or none where the key is not given.
trait Given {
    fn given(self) -> Option<Number>;
}

impl Given for f64 {
    fn given(self) -> Option<Number> {
        Some(Number::Real(self))
    }
}

impl Given for u64 {
    fn given(self) -> Option<Number> {
        Some(Number::Whole(self))
    }
}

impl Given for i32 {
    fn given(self) -> Option<Number> {
        Some(Number::Real(f64::from(self)))
    }
}

impl Given for u32 {
    fn given(self) -> Option<Number> {
        u64::from(self).given()
    }
}

impl Given for usize {
    fn given(self) -> Option<Number> {
        (self as u64).given()
    }
}

impl<T: Given> Given for Option<T> {
    fn given(self) -> Option<Number> {
        self.and_then(T::given)
    }
}

/// The row of the key that is the field `section.name`.
macro_rules! range {
    ($section:ident.$name:ident, $limits:expr, $unit:expr, $help:expr $(,)?) => {
        Range {
            key: concat!(stringify!($section), ".", stringify!($name)),
            limits: $limits,
            unit: $unit,
            help: $help,
            value: |config| config.$section.$name.given(),
        }
    };
}

/// Steps of the longest run; masks are drawn by the step's number, of which 32 bits are kept.
pub const MOST_STEPS: u64 = 1_000_000_000;

/// In the order of the keys.
#[rustfmt::skip]
pub(crate) const RANGES: &[Range] = &[
    range!(model.block_size, PowerOfTwo(32, 4096), "weights", "64 is what bitsandbytes and published QLoRA results use"),
    range!(data.max_seq_len, Within(8.0, 1_048_576.0), "tokens", "2048 suits most tool-calling data; `qlora-ctl data check` prints the lengths of yours"),
    range!(lora.r, Within(1.0, 1024.0), "", "16 is a good rank to start with"),
    range!(lora.alpha, UpTo(0.0, 1_000_000.0), "", "twice the rank is usual"),
    range!(lora.loraplus_ratio, UpTo(0.0, 1_000_000.0), "", "16 is what LoRA+ proposes; 1 trains A and B alike"),
    range!(lora.dropout, Below(0.0, 1.0), "", "0.05 is usual; 0 turns it off"),
    range!(training.epochs, UpTo(0.0, 1_000_000.0), "epochs", "1 to 3 is usual"),
    range!(training.max_steps, Within(1.0, MOST_STEPS as f64), "steps", "leave it out to train for `training.epochs`"),
    range!(training.micro_batch_size, Within(1.0, 4096.0), "conversations", "start with 1 and raise it while `qlora-ctl plan` says it fits"),
    range!(training.gradient_accumulation, Within(1.0, 65_536.0), "passes", "micro_batch_size times gradient_accumulation is the batch of one step"),
    range!(training.learning_rate, UpTo(0.0, 1.0), "", "2e-4 is usual for LoRA"),
    range!(training.warmup_ratio, Within(0.0, 1.0), "of the steps", "0.03 is usual"),
    range!(training.warmup_steps, From(0.0), "steps", ""),
    range!(training.decay_ratio, Within(0.0, 1.0), "of the steps", "0.1 is usual for `schedule: wsd`"),
    range!(training.min_rate_ratio, Within(0.0, 1.0), "of the peak rate", "0 lets the rate fall to zero, 0.1 to a tenth of the peak"),
    range!(training.weight_decay, Within(0.0, 1000.0), "", "0 or 0.01"),
    range!(training.adam_beta1, Below(0.0, 1.0), "", "0.9"),
    range!(training.adam_beta2, Below(0.0, 1.0), "", "0.999"),
    range!(training.adam_epsilon, UpTo(0.0, 1.0), "", "1e-8"),
    range!(training.max_grad_norm, Within(0.0, 1_000_000_000.0), "", "1.0 is usual; 0 turns clipping off"),
    range!(training.seed, From(0.0), "", ""),
    range!(training.eval_every, From(0.0), "steps", ""),
    range!(training.eval_rows, From(1.0), "rows", "leave it out to evaluate every row, or leave out data.eval"),
    range!(training.early_stopping, From(0.0), "evaluations", ""),
    range!(training.neftune_alpha, Within(0.0, 1_000_000.0), "", "5 is usual; 0 turns it off"),
    range!(training.checkpoint_every, From(0.0), "steps", ""),
    range!(training.checkpoints_to_keep, From(0.0), "checkpoints", ""),
    range!(training.max_skipped_steps, From(0.0), "steps", ""),
    range!(resources.memory_fraction, UpTo(0.0, 1.0), "of the memory", "0.9 leaves room for other programs"),
    range!(resources.workers, From(1.0), "workers", "1, 2, 4 and 8 give the same adapter"),
    range!(resources.max_retries, From(0.0), "attempts", ""),
    range!(resources.max_minutes, From(1.0), "minutes", "give a number of minutes from 1 on, or remove the line"),
    range!(resources.priority, Within(-1000.0, 1000.0), "", "0 is that of a job without a priority"),
];

#[cfg(test)]
mod tests;
