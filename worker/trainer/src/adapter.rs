//! Adapter files as PEFT reads and writes them.
//!
//! `adapter_config.json` and `adapter_model.safetensors`, whose keys are
//! `base_model.model.<module>.lora_A.weight` [R, in] and `.lora_B.weight` [out, R].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_config::{LoraConfig, TargetModule};
use qlora_planner::ModelShape;
use safetensors::SafeTensors;
use serde_json::json;

use crate::lora::{Adapters, Factors, Magnitude, NAMES, Site};
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
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
}

/// Writes `adapters` of `base` into `folder`, complete or not at all.
pub fn save(adapters: &Adapters, base: BaseModel<'_>, folder: &Path) -> Result<()> {
    let config = adapters.config();
    let modules: Vec<_> = config.target_modules.iter().map(|m| m.name()).collect();
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
            tensors.insert(key(site, which), tensor.to_device(&Device::Cpu)?.contiguous()?);
        }
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    // One key only: the library writes several in an order that changes, and the same run gives the same bytes.
    let metadata = [(FINGERPRINT.to_owned(), base.fingerprint.to_owned())];
    write_tensors(tensors, Some(metadata.into()), &folder.join(WEIGHTS))?;
    write_atomically(&folder.join(CONFIG), format!("{description:#}\n").as_bytes())
}

/// Reads the adapter in `folder`, made by this program or by PEFT, for a model of `shape` and `fingerprint`.
///
/// # Errors
/// It is no LoRA adapter, uses what is not supported, or belongs to another base model.
pub fn load(folder: &Path, shape: &ModelShape, fingerprint: &str, seed: u64, device: &Device) -> Result<Adapters> {
    let fault = |fault: String| Error::Adapter { path: folder.into(), fault };
    let text = fs::read_to_string(folder.join(CONFIG)).map_err(Error::io(folder.join(CONFIG)))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| fault(format!("has an unreadable {CONFIG}: {e}")))?;
    if value["peft_type"] != "LORA" {
        return Err(fault(format!("is of type {}, not LORA", value["peft_type"])));
    }
    if value["fan_in_fan_out"].as_bool().unwrap_or(false) {
        return Err(fault("uses fan_in_fan_out, which is not supported".into()));
    }
    let config = LoraConfig {
        r: value["r"].as_u64().ok_or_else(|| fault("has no rank `r`".into()))? as usize,
        alpha: value["lora_alpha"].as_f64().ok_or_else(|| fault("has no `lora_alpha`".into()))?,
        rslora: value["use_rslora"].as_bool().unwrap_or(false),
        dora: value["use_dora"].as_bool().unwrap_or(false),
        loraplus_ratio: 1.0,
        dropout: value["lora_dropout"].as_f64().unwrap_or(0.0),
        target_modules: target_modules(&value["target_modules"]).map_err(&fault)?,
    };
    let bytes = fs::read(folder.join(WEIGHTS)).map_err(Error::io(folder.join(WEIGHTS)))?;
    if recorded_fingerprint(&bytes).is_some_and(|recorded| recorded != fingerprint) {
        let base = value["base_model_name_or_path"].as_str().unwrap_or_default();
        return Err(fault(format!("was trained on another base model, `{base}`: name that one")));
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, device)?;
    let factors = Adapters::sites(&config, shape)
        .iter()
        .map(|site| {
            let (outputs, inputs) = shape.projection(site.module);
            let find = |which: usize, shape: &[usize]| take(&tensors, &key(site, NAMES[which]), shape).map_err(&fault);
            let mut factors = Factors::new(find(0, &[config.r, inputs])?, find(1, &[outputs, config.r])?);
            if config.dora {
                factors.magnitude = Some(Magnitude::new(find(2, &[outputs])?));
            }
            factors.map(|_, tensor| Ok(tensor.to_dtype(DType::F32)?))
        })
        .collect::<Result<_>>()?;
    Ok(Adapters::from_factors(&config, shape, seed, factors))
}

/// What [`save`] wrote; PEFT's files have none.
fn recorded_fingerprint(file: &[u8]) -> Option<String> {
    let (_, header) = SafeTensors::read_metadata(file).ok()?;
    header.metadata().as_ref()?.get(FINGERPRINT).cloned()
}

/// PEFT writes names of layers, or whole paths where it was asked for `all-linear`.
fn target_modules(value: &serde_json::Value) -> Result<Vec<TargetModule>, String> {
    let names = value.as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(serde_json::Value::as_str);
    let known = |path: &str| {
        let name = path.rsplit('.').next().unwrap_or(path);
        TargetModule::ALL.into_iter().find(|m| m.name() == name)
    };
    let mut modules = names
        .map(|path| known(path).ok_or_else(|| format!("adapts `{path}`, which is not supported")))
        .collect::<Result<Vec<_>, _>>()?;
    modules.sort();
    modules.dedup();
    if modules.is_empty() { Err("names no target modules".into()) } else { Ok(modules) }
}

fn take(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<Tensor, String> {
    let tensor = tensors.get(name).ok_or_else(|| format!("lacks `{name}`: it belongs to another base model"))?;
    if tensor.dims() != shape {
        return Err(format!(
            "has `{name}` of shape {:?}, this base needs {shape:?}: it belongs to another base model",
            tensor.dims()
        ));
    }
    Ok(tensor.clone())
}

/// Writes tensors under a temporary name, syncs and renames; `metadata` are texts for whoever reads the file.
pub(crate) fn write_tensors(
    tensors: HashMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
    path: &Path,
) -> Result<()> {
    let partial = path.with_extension("partial");
    safetensors::tensor::serialize_to_file(tensors, metadata, &partial).map_err(candle_core::Error::from)?;
    sync(&partial)?;
    fs::rename(&partial, path).map_err(Error::io(path))
}

/// Writes bytes under a temporary name, syncs and renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial).map_err(Error::io(&partial))?;
    file.write_all(bytes).map_err(Error::io(&partial))?;
    file.sync_all().map_err(Error::io(&partial))?;
    fs::rename(&partial, path).map_err(Error::io(path))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}
