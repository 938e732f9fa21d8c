//! What a `config.json` says of quantized weights: bitsandbytes' NF4 can be read, nothing else.

use serde_json::Value;

use super::keys::Keys;
use crate::weights::READABLE;

pub(super) fn check(config: &Keys<'_>) -> Result<(), String> {
    // MLX writes its own key.
    if config.value("quantization").is_some() {
        return Err(format!(
            "the weights are quantized by MLX (`quantization`); {READABLE}"
        ));
    }
    if config.value("compression_config").is_some() {
        return Err(format!(
            "the weights are quantized by compressed-tensors (`compression_config`); {READABLE}"
        ));
    }
    let Some(settings) = config.object("quantization_config")? else {
        return Ok(());
    };
    let method = settings.text("quant_method")?.unwrap_or_default();
    let older =
        settings.flag("load_in_4bit")?.is_some() || settings.flag("load_in_8bit")?.is_some();
    if method != "bitsandbytes" && !(method.is_empty() && older) {
        let method = if method.is_empty() {
            "an unnamed method"
        } else {
            method
        };
        return Err(format!(
            "the weights are quantized by {method} (`quantization_config`); {READABLE}"
        ));
    }
    if settings.flag("load_in_8bit")? == Some(true) {
        return Err(format!(
            "the weights are in bitsandbytes' 8 bits (`quantization_config.load_in_8bit`); {READABLE}"
        ));
    }
    match settings.value("bnb_4bit_quant_type") {
        Some(Value::String(kind)) if kind == "nf4" => Ok(()),
        kind => {
            let kind = kind.map_or_else(|| "missing, which is fp4".to_owned(), Value::to_string);
            Err(format!(
                "`quantization_config.bnb_4bit_quant_type` is {kind}; {READABLE}"
            ))
        }
    }
}
