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
use serde_json::json;

use crate::lora::{Adapters, LoraPair, Site};
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn key(site: &Site, which: &str) -> String {
    format!("base_model.model.{}.{which}.weight", site.module_path())
}

/// Writes `adapters` into `folder`, complete or not at all; `base` is recorded as the base model's name.
pub fn save(adapters: &Adapters, base: &str, folder: &Path) -> Result<()> {
    let config = adapters.config();
    let modules: Vec<_> = config.target_modules.iter().map(|m| m.name()).collect();
    let description = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "use_rslora": config.rslora,
        "use_dora": false,
        "modules_to_save": null,
    });
    let mut tensors = HashMap::new();
    for (site, pair) in adapters.sites.iter().zip(&adapters.pairs) {
        tensors.insert(key(site, "lora_A"), pair.a.to_device(&Device::Cpu)?.contiguous()?);
        tensors.insert(key(site, "lora_B"), pair.b.to_device(&Device::Cpu)?.contiguous()?);
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_tensors(&tensors, &folder.join(WEIGHTS))?;
    write_atomically(&folder.join(CONFIG), format!("{description:#}\n").as_bytes())
}

/// Reads the adapter in `folder`, made by this program or by PEFT, for a model of `shape`.
///
/// # Errors
/// It is no LoRA adapter, uses what is not supported, or belongs to another base model.
pub fn load(folder: &Path, shape: &ModelShape, seed: u64, device: &Device) -> Result<Adapters> {
    let fault = |fault: String| Error::Adapter { path: folder.into(), fault };
    let text = fs::read_to_string(folder.join(CONFIG)).map_err(Error::io(folder.join(CONFIG)))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| fault(format!("has an unreadable {CONFIG}: {e}")))?;
    if value["peft_type"] != "LORA" {
        return Err(fault(format!("is of type {}, not LORA", value["peft_type"])));
    }
    for name in ["use_dora", "fan_in_fan_out"] {
        if value[name].as_bool().unwrap_or(false) {
            return Err(fault(format!("uses {name}, which is not supported")));
        }
    }
    let config = LoraConfig {
        r: value["r"].as_u64().ok_or_else(|| fault("has no rank `r`".into()))? as usize,
        alpha: value["lora_alpha"].as_f64().ok_or_else(|| fault("has no `lora_alpha`".into()))?,
        rslora: value["use_rslora"].as_bool().unwrap_or(false),
        loraplus_ratio: 1.0,
        dropout: value["lora_dropout"].as_f64().unwrap_or(0.0),
        target_modules: target_modules(&value["target_modules"]).map_err(&fault)?,
    };
    let tensors = candle_core::safetensors::load(folder.join(WEIGHTS), device)?;
    let pairs = Adapters::sites(&config, shape)
        .iter()
        .map(|site| {
            let (outputs, inputs) = shape.projection(site.module);
            let a = take(&tensors, &key(site, "lora_A"), &[config.r, inputs]).map_err(&fault)?;
            let b = take(&tensors, &key(site, "lora_B"), &[outputs, config.r]).map_err(&fault)?;
            Ok(LoraPair { a: a.to_dtype(DType::F32)?, b: b.to_dtype(DType::F32)? })
        })
        .collect::<Result<_>>()?;
    Ok(Adapters::from_pairs(&config, shape, seed, pairs))
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

/// Writes tensors under a temporary name, syncs and renames.
pub(crate) fn write_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    let partial = path.with_extension("partial");
    candle_core::safetensors::save(tensors, &partial)?;
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
