//! Architectures, one file each: what `config.json` calls them, the keys that are their own, and
//! what those mean.
//!
//! Every key of a `config.json` is carried out, or refused by name. `weights` reads the weights.

mod architecture;
mod fault;
mod gemma2;
mod gemma3;
mod gguf;
mod granite;
mod keys;
mod known;
mod layers;
mod llama;
mod mistral;
mod phi3;
mod quantization;
mod qwen2;
mod qwen3;
mod rope;
mod sizes;
mod smollm3;

use qlora_planner::ModelShape;
use serde_json::Value;

use self::architecture::Architecture;
use self::keys::Keys;

pub use self::fault::ConfigFault;
pub use self::gguf::{GgufForm, GgufKeys, RopeForm, as_number, as_written};

/// Every architecture that is read.
static ARCHITECTURES: [&Architecture; 9] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &phi3::PHI3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
];

/// Sizes and constants of a `config.json`.
///
/// # Errors
/// It is not of an architecture in [`ARCHITECTURES`], lacks a key, contradicts itself, or asks for
/// what is not carried out.
pub fn shape_from_json(config: &Value) -> Result<ModelShape, ConfigFault> {
    let config = Keys::new(config)?;
    let architecture = architecture(&config)?;
    quantization::check(&config).map_err(ConfigFault::Unsupported)?;
    known::check(&config, architecture.keys).map_err(ConfigFault::Unsupported)?;
    (architecture.shape)(&config)
}

/// What GGUF files say of the architecture of a `config.json`.
///
/// # Errors
/// See [`shape_from_json`].
pub fn gguf_form(config: &Value) -> Result<&'static GgufForm, ConfigFault> {
    Ok(&architecture(&Keys::new(config)?)?.gguf)
}

/// What GGUF files say of the architecture that they call `name`.
pub fn gguf_form_named(name: &str) -> Option<&'static GgufForm> {
    let mut forms = ARCHITECTURES.iter().map(|known| &known.gguf);
    forms.find(|form| form.names.contains(&name))
}

/// Every name of an architecture in GGUF files that is read.
pub fn gguf_names() -> String {
    let forms = ARCHITECTURES.iter().map(|known| &known.gguf);
    let mut names: Vec<_> = forms.flat_map(|form| form.names).copied().collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn architecture(config: &Keys<'_>) -> Result<&'static Architecture, ConfigFault> {
    let Some(model_type) = config.text("model_type")? else {
        return Err("`model_type` is missing".to_owned().into());
    };
    let Some(found) = ARCHITECTURES
        .into_iter()
        .find(|known| known.model_type == model_type)
    else {
        let known = ARCHITECTURES.map(|known| known.model_type).join(", ");
        return Err(ConfigFault::Unsupported(format!(
            "the architecture `{model_type}` is not supported; {known} are"
        )));
    };
    let Some(classes) = config.value("architectures") else {
        return Ok(found);
    };
    let named = |name: &Value| {
        name.as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case(found.class))
    };
    match classes.as_array().map(Vec::as_slice) {
        Some([]) => Ok(found),
        Some([name]) if named(name) => Ok(found),
        _ => {
            let class = found.class;
            Err(ConfigFault::Unsupported(format!(
                "`architectures: {classes}` is not supported; `{class}` is"
            )))
        }
    }
}

#[cfg(test)]
mod tests;
