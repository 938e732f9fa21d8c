//! The rotary settings of a `config.json`, in both spellings.
//!
//! transformers 5 writes them together under `rope_parameters`; before, they were `rope_theta` and
//! `rope_scaling`. In a file with both spellings, `rope_scaling` overrides `rope_parameters` in
//! transformers.

use qlora_planner::RopeScaling;

use super::ConfigFault;
use super::keys::Keys;

/// Where no key names one; so in transformers.
const DEFAULT_THETA: f64 = 10_000.0;

/// Keys that an object of rotary settings may have whatever its kind.
const COMMON: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
const LLAMA3: [&str; 4] = [
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

pub(super) struct Rope {
    pub theta: f64,
    pub scaling: Option<RopeScaling>,
}

pub(super) fn read(config: &Keys<'_>) -> Result<Rope, ConfigFault> {
    let (newer, older) = (
        config.object("rope_parameters")?,
        config.object("rope_scaling")?,
    );
    let theta = theta(config, newer.as_ref(), older.as_ref())?;
    let asked = newer.as_ref().map(scaling).transpose()?;
    let scaling = match older.as_ref().map(scaling).transpose()? {
        None => asked.flatten(),
        Some(older) => {
            if asked.flatten().is_some_and(|newer| Some(newer) != older) {
                return Err(
                    "`rope_parameters` and `rope_scaling` ask for different scalings; remove one"
                        .to_owned()
                        .into(),
                );
            }
            older
        }
    };
    Ok(Rope { theta, scaling })
}

/// The one value that is given, however often.
fn theta(
    config: &Keys<'_>,
    newer: Option<&Keys<'_>>,
    older: Option<&Keys<'_>>,
) -> Result<f64, String> {
    let mut found: Vec<(String, f64)> = Vec::new();
    for keys in [Some(config), older, newer].into_iter().flatten() {
        found.extend(
            keys.number("rope_theta")?
                .map(|theta| (keys.name("rope_theta"), theta)),
        );
    }
    let Some((first, theta)) = found.first() else {
        return Ok(DEFAULT_THETA);
    };
    if let Some((name, other)) = found.iter().find(|(_, other)| other != theta) {
        return Err(format!(
            "`{first}` is {theta}, `{name}` is {other}; remove the wrong one"
        ));
    }
    // `rope_scaling` replaces the whole of `rope_parameters` in transformers, which then takes its
    // default.
    let hidden = older.is_some() && first.starts_with("rope_parameters");
    if hidden && *theta != DEFAULT_THETA {
        return Err(format!(
            "`rope_scaling` hides `{first}` {theta}; move `rope_scaling` into `rope_parameters`"
        ));
    }
    Ok(*theta)
}

fn scaling(keys: &Keys<'_>) -> Result<Option<RopeScaling>, ConfigFault> {
    let kind = kind(keys)?;
    let allowed: &[&str] = match kind {
        "default" => &[],
        "llama3" => &LLAMA3,
        other => {
            return Err(ConfigFault::Unsupported(format!(
                "`{}: {other}` is not implemented",
                keys.name("rope_type")
            )));
        }
    };
    if let Some((key, value)) = keys
        .entries()
        .find(|(key, _)| !COMMON.contains(key) && !allowed.contains(key))
    {
        return Err(format!(
            "`{}: {value}` does not go with the rotary type `{kind}`",
            keys.name(key)
        )
        .into());
    }
    if keys
        .number("partial_rotary_factor")?
        .is_some_and(|part| part != 1.0)
    {
        return Err(ConfigFault::Unsupported(format!(
            "`{}` other than 1 is not implemented",
            keys.name("partial_rotary_factor")
        )));
    }
    if kind == "default" {
        return Ok(None);
    }
    let number = |key: &str| keys.required(key, keys.number(key)?);
    let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
    if high <= low {
        let name = keys.name("high_freq_factor");
        return Err(format!("`{name}` {high} is not above `low_freq_factor` {low}").into());
    }
    Ok(Some(RopeScaling::Llama3 {
        factor: number("factor")?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_positions: number("original_max_position_embeddings")?,
    }))
}

/// `rope_type`, or `type` in older files.
fn kind<'a>(keys: &Keys<'a>) -> Result<&'a str, String> {
    match (keys.text("rope_type")?, keys.text("type")?) {
        (Some(new), Some(old)) if new != old => Err(format!(
            "`{}` is {new}, `{}` is {old}; remove one",
            keys.name("rope_type"),
            keys.name("type")
        )),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        (None, None) => match keys.entries().find(|(key, _)| !COMMON.contains(key)) {
            Some((key, _)) => Err(format!(
                "`{}` is missing beside `{}`",
                keys.name("rope_type"),
                keys.name(key)
            )),
            None => Ok("default"),
        },
    }
}
