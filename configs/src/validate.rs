//! Checks that no type can express. Ranges of numbers are in `ranges.rs`.

use crate::agree;
use crate::faults::{Fault, Faults};
use crate::ranges::RANGES;
use crate::schema::{LONGEST_NAME, TrainingConfig};
use crate::visible::has_visible;

/// Every fault of `config`; whoever knows its places puts them in order.
pub(crate) fn validate(config: &TrainingConfig) -> Vec<Fault> {
    let mut faults = Faults::default();
    name(config, &mut faults);
    ranges(config, &mut faults);
    model_and_data(config, &mut faults);
    target_modules(config, &mut faults);
    faults.require(
        config
            .resources
            .labels
            .keys()
            .all(|name| !name.trim().is_empty()),
        "resources.labels",
        || "`resources.labels` has a label without a name".into(),
        "give it the name that the worker has, as in `labels: {site: berlin}`",
    );
    agree::check(config, &mut faults);
    faults.0
}

fn name(config: &TrainingConfig, faults: &mut Faults) {
    let name = config.name.as_deref().unwrap_or_default();
    let length = name.chars().count();
    faults.require(
        length <= LONGEST_NAME,
        "name",
        || format!("`name` has {length} characters, more than {LONGEST_NAME}"),
        "shorten it; a job is found by its number",
    );
    faults.require(
        name.is_empty() || has_visible(name),
        "name",
        || "`name` has no character that can be seen".into(),
        "give one that people can read, or none",
    );
}

fn ranges(config: &TrainingConfig, faults: &mut Faults) {
    for range in RANGES {
        if let Some((message, help)) = range.fault(config) {
            faults.require(false, range.key, || message, help);
        }
    }
}

fn model_and_data(config: &TrainingConfig, faults: &mut Faults) {
    let (model, data) = (&config.model, &config.data);
    let given = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.trim().is_empty());
    faults.needed(
        given(&model.base),
        "model.base",
        "name a model, such as `model.base: llama-3.1-8b-instruct`, or a folder or .gguf file on the worker",
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

fn target_modules(config: &TrainingConfig, faults: &mut Faults) {
    let modules = &config.lora.target_modules;
    faults.require(
        !modules.is_empty(),
        "lora.target_modules",
        || "`lora.target_modules` is empty: nothing would be trained".into(),
        "[q_proj, k_proj, v_proj, o_proj] trains the attention layers",
    );
    let mut seen = modules.clone();
    seen.sort();
    seen.dedup();
    faults.require(
        seen.len() == modules.len(),
        "lora.target_modules",
        || "`lora.target_modules` names a module twice".into(),
        "name each module once",
    );
}
