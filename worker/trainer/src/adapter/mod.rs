//! Adapter files as PEFT reads and writes them.
//!
//! `adapter_config.json` and `adapter_model.safetensors`, whose keys are
//! `base_model.model.<module>.lora_A.weight` [R, in] and `.lora_B.weight` [out, R]; and beside
//! them, in `chat_template.jinja`, the template that the adapter was trained with, and in
//! `training_base.json` what its base computed with.

mod base;
mod constants;
mod files;
mod load;
mod settings;
mod targets;
pub mod template;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use qlora_config::is_hub_name;
use qlora_planner::ModelShape;
use serde_json::json;

use crate::lora::{Adapters, NAMES, Site};
use crate::{Error, Result, partial};

pub(crate) use constants::CONSTANTS;
pub(crate) use template::{ADDITIONAL, RECORD, TEMPLATE};

pub use base::notes_of_base;
pub(crate) use base::other_constants;
pub use load::{is_there, load};
pub use template::TrainedWith;

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// Key of the base model's fingerprint in the metadata of [`WEIGHTS`].
const FINGERPRINT: &str = "base_fingerprint";

/// `which` is one of [`NAMES`].
fn key(site: &Site, which: &str) -> String {
    format!("base_model.model.{}.{which}", site.module_path())
}

/// The model that adapters were trained on.
#[derive(Debug, Clone, Copy)]
pub struct BaseModel<'a> {
    pub name: &'a str,
    /// See [`crate::weights::Checkpoint::fingerprint`].
    pub fingerprint: &'a str,
    pub shape: &'a ModelShape,
    /// None where there is no chat template.
    pub template: Option<TrainedWith<'a>>,
}

/// A name for the base that others can resolve: that of the hub for a model of the catalogue, or
/// for a path of this machine whose files name it as `hub_name`; none where there is only the path.
pub fn public_name(base: &str, hub_name: Option<&str>) -> Option<String> {
    match qlora_planner::find(base) {
        Some(entry) => Some(entry.repository.to_owned()),
        None if is_hub_name(base) && !Path::new(base).exists() => Some(base.to_owned()),
        None => hub_name.map(str::to_owned),
    }
}

/// Writes `adapters` of `base` into `folder`, complete or not at all.
pub fn save(adapters: &Adapters, base: BaseModel<'_>, folder: &Path) -> Result<()> {
    let config = adapters.config();
    let modules: Vec<_> = adapters.modules().iter().map(|m| m.name()).collect();
    let description = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "modules_to_save": null,
    });
    let mut tensors = HashMap::new();
    for (site, factors) in adapters.sites.iter().zip(&adapters.factors) {
        for (which, tensor) in NAMES.iter().zip(factors.tensors()) {
            tensors.insert(
                key(site, which),
                tensor.to_device(&Device::Cpu)?.contiguous()?,
            );
        }
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    // One key only: the library writes several in an order that changes, and the same run gives the
    // same bytes.
    let metadata = [(FINGERPRINT.to_owned(), base.fingerprint.to_owned())];
    let weights = folder.join(WEIGHTS);
    partial::write_tensors(&weights, tensors, Some(metadata.into()))
        .map_err(Error::io(&weights))?;
    constants::save(base.shape, folder)?;
    if let Some(template) = base.template {
        template::save(template, folder)?;
    }
    let path = folder.join(CONFIG);
    partial::write(&path, format!("{description:#}\n").as_bytes()).map_err(Error::io(&path))
}
