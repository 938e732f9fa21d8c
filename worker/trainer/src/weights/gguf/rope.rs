//! The rotary embedding in a GGUF file: how its keys and tensors together scale frequencies, and in
//! which order rows of queries and keys lie.

use qlora_config::TargetModule;
use qlora_planner::{ModelShape, RopeScaling};

use crate::model::{GgufForm, GgufKeys, RopeForm};

/// YaRN's bounds in llama.cpp, which `header.rs` refuses to change (`llama-context.cpp`).
pub(super) const BETA_FAST: f64 = 32.0;
pub(super) const BETA_SLOW: f64 = 1.0;

/// Divisors of the frequencies.
pub(crate) const DIVISORS: &str = "rope_freqs.weight";
pub(crate) const SHORT: &str = "rope_factors_short.weight";
pub(crate) const LONG: &str = "rope_factors_long.weight";

/// The rotary tensors of a file.
#[derive(Default)]
pub(crate) struct RopeTensors {
    pub divisors: Option<Vec<f32>>,
    pub short: Option<Vec<f32>>,
    pub long: Option<Vec<f32>>,
}

/// The tensors beside [`crate::model::Part`]s that the graph of `form` reads.
pub(crate) fn tensors(form: &GgufForm) -> Vec<&'static str> {
    let mut names = Vec::new();
    if form.has(RopeForm::Divisors) {
        names.push(DIVISORS);
    }
    if form.has(RopeForm::Long) {
        names.extend([SHORT, LONG]);
    }
    names
}

/// YaRN's mscale: what llama.cpp multiplies cosines and sines with, where a file does not change it.
pub(crate) fn yarn_growth(factor: f64) -> f64 {
    1.0 + 0.1 * factor.ln()
}

/// The scaling of a model of `form` for `positions`.
///
/// # Errors
/// The file asks for one that the architecture does not have, or for two.
pub(super) fn read(
    keys: &GgufKeys<'_>,
    form: &GgufForm,
    tensors: RopeTensors,
    positions: usize,
) -> Result<Option<RopeScaling>, String> {
    let attention_factor = keys.optional("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = keys.size("rope.scaling.original_context_length")?;
    let original = original.unwrap_or(positions);
    let named = scaling_of_keys(keys, form, original as f64, attention_factor)?;
    let held = match tensors {
        RopeTensors {
            short: Some(short),
            long: Some(long),
            ..
        } => Some(RopeScaling::LongRope {
            short,
            long,
            original_positions: original,
            attention_factor,
        }),
        RopeTensors { short: Some(_), .. } => return Err(format!("`{SHORT}` is without `{LONG}`")),
        RopeTensors { long: Some(_), .. } => return Err(format!("`{LONG}` is without `{SHORT}`")),
        RopeTensors { divisors, .. } => divisors.map(RopeScaling::Divisors),
    };
    let kind = keys.name("rope.scaling.type");
    let scaling = match (named, held) {
        (Some(_), Some(_)) => {
            let name = keys.name("rope.scaling.factor");
            return Err(format!("`{name}` beside rotary tensors is not implemented"));
        }
        (named, held) => named.or(held),
    };
    let is_long = matches!(scaling, Some(RopeScaling::LongRope { .. }));
    if keys.text("rope.scaling.type")? == Some("longrope") && !is_long {
        return Err(format!("`{kind}` is longrope, and `{LONG}` is missing"));
    }
    let grows = matches!(scaling, Some(RopeScaling::Yarn { .. })) || is_long;
    if attention_factor != 1.0 && !grows {
        let name = keys.name("rope.scaling.attn_factor");
        return Err(format!(
            "`{name}` without yarn or longrope is not implemented"
        ));
    }
    Ok(scaling)
}

/// The scaling that the keys ask for, without the rotary tensors.
fn scaling_of_keys(
    keys: &GgufKeys<'_>,
    form: &GgufForm,
    original_positions: f64,
    attention_factor: f64,
) -> Result<Option<RopeScaling>, String> {
    // `scale_linear` is the deprecated name of `scaling.factor`.
    let factor = match keys.optional("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.optional("rope.scale_linear")?.unwrap_or(1.0),
    };
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    let refused = || {
        let (name, graph) = (keys.name("rope.scaling.type"), form.name());
        format!("`{name}: {kind}` with factor {factor} is not implemented for `{graph}`")
    };
    match kind {
        "none" => Ok(None),
        "linear" if factor == 1.0 => Ok(None),
        "linear" if form.has(RopeForm::Linear) => Ok(Some(RopeScaling::Linear { factor })),
        "yarn" if form.has(RopeForm::Yarn) => Ok(Some(RopeScaling::Yarn {
            factor,
            original_positions,
            beta_fast: BETA_FAST,
            beta_slow: BETA_SLOW,
            truncate: true,
            attention_factor: attention_factor * yarn_growth(factor),
        })),
        "longrope" if form.has(RopeForm::Long) && factor == 1.0 => Ok(None),
        _ => Err(refused()),
    }
}

/// The number of heads of `module` where a GGUF file of `form` has its rows in another order than a
/// Hugging Face folder; none where the order is the same.
pub(crate) fn rotary_heads(
    form: &GgufForm,
    shape: &ModelShape,
    module: TargetModule,
) -> Option<usize> {
    match module {
        TargetModule::QProj if form.interleaved => Some(shape.heads),
        TargetModule::KProj if form.interleaved => Some(shape.kv_heads),
        _ => None,
    }
}

/// The place in a GGUF file of row `row` of a query or key projection of `rows` rows. llama.cpp
/// rotates neighboring elements, so its converter interleaves the two halves of each head (`permute`
/// in `convert_hf_to_gguf.py`).
pub(crate) fn rotary_row(row: usize, rows: usize, heads: usize) -> usize {
    let head = rows / heads;
    let (h, i) = (row / head, row % head);
    let (half, pair) = (i / (head / 2), i % (head / 2));
    h * head + 2 * pair + half
}
