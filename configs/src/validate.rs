//! What no type can say: the range of each key.

use qlora_codes::Code;

use crate::agree;
use crate::schema::TrainingConfig;

/// A value that is of the right type and still wrong.
pub(crate) struct Fault {
    pub code: Code,
    pub key: &'static str,
    pub message: String,
    pub help: Option<String>,
}

pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub fn require(
        &mut self,
        ok: bool,
        key: &'static str,
        message: impl FnOnce() -> String,
        help: &str,
    ) {
        if !ok {
            self.0.push(Fault {
                code: Code::InvalidValue,
                key,
                message: message(),
                help: Some(help.to_owned()),
            });
        }
    }

    /// Notes that `key`, which has no default, is not `given`.
    fn needed(&mut self, given: bool, key: &'static str, help: &str) {
        if !given {
            let message = format!("`{key}` is missing");
            self.0.push(Fault {
                code: Code::MissingKey,
                key,
                message,
                help: Some(help.to_owned()),
            });
        }
    }
}

/// Every fault of `config`, in the order of its keys.
pub(crate) fn validate(config: &TrainingConfig) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    model_and_data(config, &mut faults);
    lora(config, &mut faults);
    training(config, &mut faults);
    agree::check(config, &mut faults);
    faults.0
}

fn model_and_data(config: &TrainingConfig, faults: &mut Faults) {
    let (model, data) = (&config.model, &config.data);
    let given = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.trim().is_empty());
    faults.needed(
        given(&model.base),
        "model.base",
        "name a model, such as `model.base: llama-3.1-8b-instruct`, or a folder or .gguf file on the worker",
    );
    faults.require(
        matches!(
            model.block_size,
            32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 4096
        ),
        "model.block_size",
        || {
            format!(
                "`model.block_size` is {}, not a power of two from 32 to 4096",
                model.block_size
            )
        },
        "64 is what bitsandbytes and published QLoRA results use",
    );
    faults.needed(
        given(&data.train),
        "data.train",
        "name a JSONL file of conversations, such as `data.train: train.jsonl`",
    );
    for (key, path) in [
        ("model.base", &model.base),
        ("data.train", &data.train),
        ("data.eval", &data.eval),
    ] {
        let variable = path.as_deref().and_then(expandable);
        faults.require(
            variable.is_none(),
            key,
            || {
                format!(
                    "`{key}` starts with `{}`, which no program fills in here",
                    variable.unwrap_or_default()
                )
            },
            "write the whole path, or let the shell fill it in, as in --set KEY=\"$HOME/FILE\"",
        );
    }
    let known = crate::template::check(&data.template);
    faults.require(
        known.is_ok(),
        "data.template",
        || {
            format!(
                "`data.template` is `{}`, neither a template's name nor Jinja text",
                data.template
            )
        },
        known.err().as_deref().unwrap_or_default(),
    );
    faults.require(
        (8..=1_048_576).contains(&data.max_seq_len),
        "data.max_seq_len",
        || {
            format!(
                "`data.max_seq_len` is {}, outside 8 to 1,048,576 tokens",
                data.max_seq_len
            )
        },
        "2048 suits most tool-calling data; `qlora-ctl data check` prints the lengths of yours",
    );
    faults.require(
        is_date(&data.template_date),
        "data.template_date",
        || {
            format!(
                "`data.template_date` is `{}`, which is no date",
                data.template_date
            )
        },
        "write it in quotation marks, such as \"2024-07-26\"",
    );
}

/// The beginning of a path that a shell would replace.
fn expandable(path: &str) -> Option<&str> {
    let first = path.split(['/', '\\']).next().unwrap_or_default();
    let is_variable = first.starts_with('~')
        || first.starts_with('$') && first.len() > 1
        || first.len() > 2 && first.starts_with('%') && first.ends_with('%');
    is_variable.then_some(first)
}

/// Whether `text` is a day of the Gregorian calendar as `2024-07-26`.
fn is_date(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| {
        text.get(range)
            .filter(|part| part.bytes().all(|b| b.is_ascii_digit()))
    };
    let number = |range| part(range).and_then(|digits| digits.parse::<u32>().ok());
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
        return false;
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        1..=12 => 31,
        _ => 0,
    };
    text.len() == 10 && &text[4..5] == "-" && &text[7..8] == "-" && (1..=days).contains(&day)
}

fn lora(config: &TrainingConfig, faults: &mut Faults) {
    let lora = &config.lora;
    faults.require(
        (1..=1024).contains(&lora.r),
        "lora.r",
        || format!("`lora.r` is {}, outside 1 to 1024", lora.r),
        "16 is a good rank to start with",
    );
    faults.require(
        lora.alpha.is_finite() && lora.alpha > 0.0,
        "lora.alpha",
        || format!("`lora.alpha` is {}, not above 0", lora.alpha),
        "twice the rank is usual",
    );
    faults.require(
        lora.loraplus_ratio.is_finite() && lora.loraplus_ratio > 0.0,
        "lora.loraplus_ratio",
        || {
            format!(
                "`lora.loraplus_ratio` is {}, not above 0",
                lora.loraplus_ratio
            )
        },
        "16 is what LoRA+ proposes; 1 trains A and B alike",
    );
    faults.require(
        (0.0..1.0).contains(&lora.dropout),
        "lora.dropout",
        || format!("`lora.dropout` is {}, outside 0 to below 1", lora.dropout),
        "0.05 is usual; 0 turns it off",
    );
    faults.require(
        !lora.target_modules.is_empty(),
        "lora.target_modules",
        || "`lora.target_modules` is empty: nothing would be trained".into(),
        "[q_proj, k_proj, v_proj, o_proj] trains the attention layers",
    );
    let mut seen = lora.target_modules.clone();
    seen.sort();
    seen.dedup();
    faults.require(
        seen.len() == lora.target_modules.len(),
        "lora.target_modules",
        || "`lora.target_modules` names a module twice".into(),
        "name each module once",
    );
}

fn training(config: &TrainingConfig, faults: &mut Faults) {
    let t = &config.training;
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let mut range = |ok: bool, key: &'static str, value: String, wanted: &str, help: &str| {
        faults.require(ok, key, || format!("`{key}` is {value}, {wanted}"), help);
    };
    range(
        positive(t.epochs),
        "training.epochs",
        t.epochs.to_string(),
        "not above 0",
        "1 to 3 is usual",
    );
    range(
        t.max_steps != Some(0),
        "training.max_steps",
        "0".into(),
        "not above 0",
        "leave it out to train for `training.epochs`",
    );
    range(
        (1..=4096).contains(&t.micro_batch_size),
        "training.micro_batch_size",
        t.micro_batch_size.to_string(),
        "outside 1 to 4096",
        "start with 1 and raise it while `qlora-ctl plan` says it fits",
    );
    range(
        (1..=65_536).contains(&t.gradient_accumulation),
        "training.gradient_accumulation",
        t.gradient_accumulation.to_string(),
        "outside 1 to 65,536",
        "micro_batch_size times gradient_accumulation is the batch of one step",
    );
    range(
        positive(t.learning_rate) && t.learning_rate <= 1.0,
        "training.learning_rate",
        t.learning_rate.to_string(),
        "outside 0 to 1",
        "2e-4 is usual for LoRA",
    );
    range(
        (0.0..=1.0).contains(&t.warmup_ratio),
        "training.warmup_ratio",
        t.warmup_ratio.to_string(),
        "outside 0 to 1",
        "0.03 is usual",
    );
    range(
        (0.0..=1.0).contains(&t.decay_ratio),
        "training.decay_ratio",
        t.decay_ratio.to_string(),
        "outside 0 to 1",
        "0.1 is usual for `schedule: wsd`",
    );
    range(
        (0.0..=1.0).contains(&t.min_rate_ratio),
        "training.min_rate_ratio",
        t.min_rate_ratio.to_string(),
        "outside 0 to 1",
        "0 lets the rate fall to zero, 0.1 to a tenth of the peak",
    );
    range(
        t.neftune_alpha.is_finite() && t.neftune_alpha >= 0.0,
        "training.neftune_alpha",
        t.neftune_alpha.to_string(),
        "below 0",
        "5 is usual; 0 turns it off",
    );
    range(
        t.weight_decay.is_finite() && t.weight_decay >= 0.0,
        "training.weight_decay",
        t.weight_decay.to_string(),
        "below 0",
        "0 or 0.01",
    );
    range(
        (0.0..1.0).contains(&t.adam_beta1),
        "training.adam_beta1",
        t.adam_beta1.to_string(),
        "outside 0 to below 1",
        "0.9",
    );
    range(
        (0.0..1.0).contains(&t.adam_beta2),
        "training.adam_beta2",
        t.adam_beta2.to_string(),
        "outside 0 to below 1",
        "0.999",
    );
    range(
        positive(t.adam_epsilon),
        "training.adam_epsilon",
        t.adam_epsilon.to_string(),
        "not above 0",
        "1e-8",
    );
    range(
        t.max_grad_norm.is_finite() && t.max_grad_norm >= 0.0,
        "training.max_grad_norm",
        t.max_grad_norm.to_string(),
        "below 0",
        "1.0 is usual; 0 turns clipping off",
    );
    range(
        t.eval_rows != Some(0),
        "training.eval_rows",
        "0".into(),
        "not above 0",
        "leave it out to evaluate every row, or leave out data.eval",
    );
}
