//! The rotary settings of a `config.json`, in both spellings.
//!
//! transformers 5 writes them together under `rope_parameters`; before, they were `rope_theta`,
//! `partial_rotary_factor` and `rope_scaling`. In a file with both spellings, `rope_scaling`
//! overrides `rope_parameters` in transformers.

use qlora_planner::RopeScaling;

use super::fault::ConfigFault;
use super::keys::Keys;
use super::layers;

/// How an architecture reads its rotary settings.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Where no key names one.
    pub theta: f64,
    /// `partial_rotary_factor` counts.
    pub partial: bool,
    /// Scaling by a list of factors, which only Phi has; with its original positions where no key
    /// outside of the rotary settings names them.
    pub long: Option<f64>,
    /// Blocks with a window have settings of their own, by kind of layer in `rope_parameters` or
    /// under [`LOCAL`]; with their base where no key names one.
    pub local: Option<f64>,
}

/// Llama's.
pub(super) const PLAIN: Reading = Reading {
    theta: 10_000.0,
    partial: false,
    long: None,
    local: None,
};

/// Keys that an object of rotary settings may have whatever its kind.
const COMMON: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
/// The positions that a model was first trained with, in either place.
const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";
/// The base of the blocks with a window.
const LOCAL: &str = "rope_local_base_freq";

pub(super) struct Rope {
    pub theta: f64,
    pub scaling: Option<RopeScaling>,
    /// Elements of a head that are rotated, where those are not all.
    pub rotary_dim: Option<usize>,
    /// The base of blocks with a window, where they have one of their own.
    pub local_theta: Option<f64>,
}

/// The settings of a model with heads of `head_dim` for `positions`.
pub(super) fn read(
    config: &Keys<'_>,
    reading: &Reading,
    head_dim: usize,
    positions: usize,
) -> Result<Rope, ConfigFault> {
    let (newer, local) = by_kind(config.object("rope_parameters")?, reading)?;
    let older = config.object("rope_scaling")?;
    let theta = theta(config, newer.as_ref(), older.as_ref(), reading.theta)?;
    let rotary_dim = rotary_dim(
        [Some(config), older.as_ref(), newer.as_ref(), local.as_ref()],
        reading,
        head_dim,
    )?;
    let model = Model {
        original: config.number(ORIGINAL)?,
        positions: positions as f64,
        pairs: rotary_dim.unwrap_or(head_dim) / 2,
        reading: *reading,
    };
    let scaling = agreed(newer.as_ref(), older.as_ref(), &model)?;
    Ok(Rope {
        theta,
        scaling,
        rotary_dim,
        local_theta: match reading.local {
            Some(default) => Some(local_theta(config, local.as_ref(), default, &model)?),
            None => None,
        },
    })
}

/// `rope_parameters` of all blocks, or apart for those without and with a window.
fn by_kind<'a>(
    keys: Option<Keys<'a>>,
    reading: &Reading,
) -> Result<(Option<Keys<'a>>, Option<Keys<'a>>), String> {
    let kinds = [layers::FULL, layers::SLIDING];
    let is_kind = |key: &str| reading.local.is_some() && kinds.contains(&key);
    let Some(keys) = keys else {
        return Ok((None, None));
    };
    if !keys.entries().any(|(key, _)| is_kind(key)) {
        return Ok((Some(keys), None));
    }
    if let Some((other, _)) = keys.entries().find(|(key, _)| !is_kind(key)) {
        let name = keys.name(other);
        return Err(format!(
            "`{name}` stands beside the settings of kinds of layers"
        ));
    }
    Ok((keys.object(layers::FULL)?, keys.object(layers::SLIDING)?))
}

/// The base of blocks with a window, whose frequencies are not scaled.
fn local_theta(
    config: &Keys<'_>,
    local: Option<&Keys<'_>>,
    default: f64,
    model: &Model,
) -> Result<f64, ConfigFault> {
    let outside = config.number(LOCAL)?;
    let Some(local) = local else {
        return Ok(outside.unwrap_or(default));
    };
    if scaling(local, model)?.is_some() {
        let name = local.name("rope_type");
        return Err(ConfigFault::Unsupported(format!(
            "`{name}` is not implemented"
        )));
    }
    match (outside, local.number("rope_theta")?) {
        (Some(outside), Some(inside)) if outside != inside => {
            let name = local.name("rope_theta");
            Err(
                format!("`{LOCAL}` is {outside}, `{name}` is {inside}; remove the wrong one")
                    .into(),
            )
        }
        (outside, inside) => Ok(inside.or(outside).unwrap_or(default)),
    }
}

/// What scalings need of the rest of a configuration.
struct Model {
    /// [`ORIGINAL`] outside of the rotary settings, which has priority.
    original: Option<f64>,
    positions: f64,
    pairs: usize,
    reading: Reading,
}

/// The one scaling that is asked for, however often.
fn agreed(
    newer: Option<&Keys<'_>>,
    older: Option<&Keys<'_>>,
    model: &Model,
) -> Result<Option<RopeScaling>, ConfigFault> {
    let asked = newer.map(|keys| scaling(keys, model)).transpose()?;
    match older.map(|keys| scaling(keys, model)).transpose()? {
        None => Ok(asked.flatten()),
        Some(older) => {
            if asked.flatten().is_some_and(|newer| Some(newer) != older) {
                return Err(
                    "`rope_parameters` and `rope_scaling` ask for different scalings; remove one"
                        .to_owned()
                        .into(),
                );
            }
            Ok(older)
        }
    }
}

/// The one value that is given, however often.
fn theta(
    config: &Keys<'_>,
    newer: Option<&Keys<'_>>,
    older: Option<&Keys<'_>>,
    default: f64,
) -> Result<f64, String> {
    let mut found: Vec<(String, f64)> = Vec::new();
    for keys in [Some(config), older, newer].into_iter().flatten() {
        found.extend(
            keys.number("rope_theta")?
                .map(|theta| (keys.name("rope_theta"), theta)),
        );
    }
    let Some((first, theta)) = found.first() else {
        return Ok(default);
    };
    if let Some((name, other)) = found.iter().find(|(_, other)| other != theta) {
        return Err(format!(
            "`{first}` is {theta}, `{name}` is {other}; remove the wrong one"
        ));
    }
    // `rope_scaling` replaces the whole of `rope_parameters` in transformers, which then takes its
    // default.
    let hidden = older.is_some() && first.starts_with("rope_parameters");
    if hidden && *theta != default {
        return Err(format!(
            "`rope_scaling` hides `{first}` {theta}; move `rope_scaling` into `rope_parameters`"
        ));
    }
    Ok(*theta)
}

/// The elements of a head that are rotated, where those are not all. The one factor that is given,
/// however often.
fn rotary_dim(
    places @ [_, older, ..]: [Option<&Keys<'_>>; 4],
    reading: &Reading,
    head_dim: usize,
) -> Result<Option<usize>, ConfigFault> {
    let mut found: Vec<(String, f64)> = Vec::new();
    for keys in places.into_iter().flatten() {
        let given = keys.number(PARTIAL)?;
        found.extend(given.map(|part| (keys.name(PARTIAL), part)));
    }
    let Some((name, part)) = found.first() else {
        return Ok(None);
    };
    if let Some((other, value)) = found.iter().find(|(_, other)| other != part) {
        let fault = format!("`{name}` is {part}, `{other}` is {value}; remove the wrong one");
        return Err(fault.into());
    }
    if *part == 1.0 {
        return Ok(None);
    }
    if !reading.partial {
        let fault = format!("`{name}` other than 1 is not implemented");
        return Err(ConfigFault::Unsupported(fault));
    }
    // As with the base: `rope_scaling` replaces the whole of `rope_parameters`.
    if older.is_some() && name.starts_with("rope_parameters") {
        let fault = format!("`rope_scaling` hides `{name}` {part}; write it into `rope_scaling`");
        return Err(fault.into());
    }
    let dim = (head_dim as f64 * part) as usize;
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        let fault = format!("`{name}` {part} leaves {dim} elements of a head of {head_dim}");
        return Err(fault.into());
    }
    Ok(Some(dim))
}

/// The scaling that an object of rotary settings asks for.
fn scaling(keys: &Keys<'_>, model: &Model) -> Result<Option<RopeScaling>, ConfigFault> {
    let named = kind(keys, &model.reading)?;
    let kind = model.reading.kind(named);
    let allowed: &[&str] = match kind {
        "default" => &[ORIGINAL],
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
        "yarn" => &YARN,
        "longrope" if model.reading.long.is_some() => &LONG_ROPE,
        _ => {
            return Err(ConfigFault::Unsupported(format!(
                "`{}: {named}` is not implemented",
                keys.name("rope_type")
            )));
        }
    };
    let is_allowed = |key: &str| COMMON.contains(&key) || allowed.contains(&key);
    if let Some((key, value)) = keys.entries().find(|(key, _)| !is_allowed(key)) {
        return Err(format!(
            "`{}: {value}` does not go with the rotary type `{kind}`",
            keys.name(key)
        )
        .into());
    }
    match kind {
        "linear" => Ok(Some(RopeScaling::Linear {
            factor: keys.required("factor", keys.number("factor")?)?,
        })),
        "llama3" => llama3(keys, model).map(Some),
        "yarn" => yarn(keys, model).map(Some),
        "longrope" => long_rope(keys, model).map(Some),
        _ => Ok(None),
    }
}

fn original(keys: &Keys<'_>, model: &Model) -> Result<f64, String> {
    let inside = keys.number(ORIGINAL)?;
    // Phi's default stands outside, and so before what stands inside.
    let outside = model.original.or(model.reading.long);
    match (outside, inside) {
        (Some(outside), Some(inside)) if model.original.is_none() && outside != inside => {
            let name = keys.name(ORIGINAL);
            Err(format!(
                "`{name}` {inside} does not count beside the default {outside}; write `{ORIGINAL}` beside `model_type`"
            ))
        }
        _ => keys.required(ORIGINAL, outside.or(inside)),
    }
}

fn llama3(keys: &Keys<'_>, model: &Model) -> Result<RopeScaling, ConfigFault> {
    let number = |key: &str| keys.required(key, keys.number(key)?);
    let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
    if high <= low {
        let name = keys.name("high_freq_factor");
        return Err(format!("`{name}` {high} is not above `low_freq_factor` {low}").into());
    }
    Ok(RopeScaling::Llama3 {
        factor: number("factor")?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_positions: original(keys, model)?,
    })
}

const YARN: [&str; 8] = [
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    ORIGINAL,
];

fn yarn(keys: &Keys<'_>, model: &Model) -> Result<RopeScaling, ConfigFault> {
    let original_positions = original(keys, model)?;
    let factor = keys
        .number("factor")?
        .unwrap_or(model.positions / original_positions);
    let grown = |scale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * scale * factor.ln() + 1.0
        }
    };
    let scales = (keys.number("mscale")?, keys.number("mscale_all_dim")?);
    let attention_factor = match (keys.number("attention_factor")?, scales) {
        (Some(given), _) => given,
        (None, (Some(scale), Some(all))) => grown(scale) / grown(all),
        (None, _) => grown(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_positions,
        beta_fast: keys.number("beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.number("beta_slow")?.unwrap_or(1.0),
        truncate: keys.flag("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

const LONG_ROPE: [&str; 5] = [
    "factor",
    "attention_factor",
    "short_factor",
    "long_factor",
    ORIGINAL,
];

fn long_rope(keys: &Keys<'_>, model: &Model) -> Result<RopeScaling, ConfigFault> {
    let original_positions = original(keys, model)?;
    let factor = keys
        .number("factor")?
        .unwrap_or(model.positions / original_positions);
    let grown = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / original_positions.ln()).sqrt()
    };
    let list = |key: &str| -> Result<Vec<f32>, String> {
        let list = keys.required(key, keys.numbers(key)?)?;
        if list.len() != model.pairs {
            let (name, given, pairs) = (keys.name(key), list.len(), model.pairs);
            return Err(format!(
                "`{name}` has {given} factors for {pairs} pairs of a head"
            ));
        }
        Ok(list.into_iter().map(|factor| factor as f32).collect())
    };
    Ok(RopeScaling::LongRope {
        short: list("short_factor")?,
        long: list("long_factor")?,
        original_positions: original_positions as usize,
        attention_factor: keys.number("attention_factor")?.unwrap_or(grown),
    })
}

impl Reading {
    /// Older files of Phi call LongRoPE by the names of what it grew out of.
    fn kind<'a>(&self, named: &'a str) -> &'a str {
        match named {
            "su" | "yarn" if self.long.is_some() => "longrope",
            named => named,
        }
    }
}

/// `rope_type`, or `type` in older files.
fn kind<'a>(keys: &Keys<'a>, reading: &Reading) -> Result<&'a str, String> {
    match (keys.text("rope_type")?, keys.text("type")?) {
        (Some(new), Some(old)) if reading.kind(new) != reading.kind(old) => Err(format!(
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
