//! What would help a run that ran out of memory.

use qlora_config::TrainingConfig;
use qlora_planner::DeviceBudget;

use crate::error::{first_line, is_out_of_memory};
use crate::model::Decoder;
use crate::{Error, device};

/// Part of the planned memory that a run which did not fit is advised to stay within.
const LESS: f64 = 0.85;

/// A device's lack of memory, with changes that take less; other errors stay as they are.
pub(crate) fn on_memory(e: Error, decoder: &Decoder, config: &TrainingConfig) -> Error {
    let Error::Tensors(fault) = &e else { return e };
    if !is_out_of_memory(fault) {
        return e;
    }
    let kind = device::kind(&decoder.device);
    let planned = qlora_planner::plan(&decoder.shape, config, kind).total();
    let bytes = (planned as f64 * LESS / config.resources.memory_fraction) as u64;
    let advice = match qlora_planner::fit(&decoder.shape, config, DeviceBudget { kind, bytes }) {
        Err(refused) if !refused.suggestions.is_empty() => {
            format!("set {}", refused.suggestions.join(", or "))
        }
        _ => "take a GPU with more memory, or a smaller model".into(),
    };
    let advice = format!(
        "{:.1} GiB were planned; {advice}",
        planned as f64 / (1u64 << 30) as f64
    );
    Error::Memory {
        fault: first_line(&fault.to_string()),
        advice,
    }
}
