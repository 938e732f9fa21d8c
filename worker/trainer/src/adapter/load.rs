//! Reads adapters, made by this program or by PEFT.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_config::LoraConfig;
use qlora_data::strict;
use qlora_planner::ModelShape;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::settings::{self, Place, Settings};
use super::{CONFIG, FINGERPRINT, WEIGHTS, files};
use crate::lora::{Adapters, Factors, Magnitude, NAMES, Site};
use crate::weights::{first_broken, metadata};
use crate::{Error, Result};

/// Whether `folder` holds an adapter at all.
///
/// # Errors
/// It does not: what it is instead.
pub fn is_there(folder: &Path) -> Result<()> {
    files::check(folder, CONFIG)?;
    if folder.join(CONFIG).exists() {
        Ok(())
    } else {
        Err(missing(folder))
    }
}

/// What is in the place of the adapter that `folder` does not hold.
fn missing(folder: &Path) -> Error {
    let fault = if folder.is_file() {
        format!("is a file; name the folder that holds {CONFIG}")
    } else if folder.exists() {
        format!("has no {CONFIG}; name the folder that holds it")
    } else {
        "is not there".to_owned()
    };
    Error::Adapter {
        path: folder.into(),
        fault,
    }
}

/// Reads the adapter in `folder` for a model of `shape` and `fingerprint`.
///
/// Ranks and strengths that differ from module to module become one rank and one scale: factors of
/// a lower rank are filled up with zeros, and what a module's strength is above the common one goes
/// into its B.
///
/// # Errors
/// It is no LoRA adapter, its settings or tensors are not understood, or it was trained on another
/// base model.
pub fn load(
    folder: &Path,
    shape: &ModelShape,
    fingerprint: &str,
    seed: u64,
    device: &Device,
) -> Result<Adapters> {
    let fault = |fault: String| Error::Adapter {
        path: folder.into(),
        fault,
    };
    is_there(folder)?;
    let text = files::text(folder, CONFIG)?.ok_or_else(|| missing(folder))?;
    let value: Value = strict::parse_settings(&text)
        .map_err(|e| fault(format!("has an unreadable {CONFIG}: {e}")))?;
    let Settings { lora, places } = settings::read(&value, shape).map_err(fault)?;
    let bytes = read_weights(folder)?;
    let file = opened(&bytes, &value, fingerprint).map_err(fault)?;
    let names = places_of_tensors(&file, &places, lora.dora).map_err(fault)?;
    let alike = |place: &Place| place.rank == lora.r && place.alpha == lora.alpha;
    let uniform = places.iter().all(alike);
    let config = if uniform {
        lora
    } else {
        in_common(lora, &places)
    };
    let mut factors = Vec::with_capacity(places.len());
    for place in &places {
        let dims = shape.projection(place.site.module);
        let mut found = stored(&file, &names, place, dims, config.dora).map_err(fault)?;
        if !uniform {
            let own = place.alpha / unit_alpha(place.rank, config.rslora);
            found = widened(found, config.r, own)?;
        }
        factors.push(found.map(|_, tensor| Ok(tensor.to_device(device)?))?);
    }
    let sites = places.into_iter().map(|place| place.site).collect();
    Ok(Adapters::at_sites(config, sites, seed, factors))
}

fn read_weights(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(WEIGHTS);
    files::check(folder, WEIGHTS)?;
    if path.exists() {
        return fs::read(&path).map_err(Error::io(path));
    }
    let fault = if folder.join("adapter_model.bin").exists() {
        format!("has only adapter_model.bin, a pickle, which is not read; save it as {WEIGHTS}")
    } else {
        format!("has no {WEIGHTS}; download the file")
    };
    Err(Error::Adapter {
        path: folder.into(),
        fault,
    })
}

/// The tensors in `bytes` of [`WEIGHTS`].
///
/// # Errors
/// They cannot be read, or say that they were trained on another base than that of `fingerprint`,
/// which `settings` name.
fn opened<'b>(
    bytes: &'b [u8],
    settings: &Value,
    fingerprint: &str,
) -> Result<SafeTensors<'b>, String> {
    let unreadable = |e: &dyn Display| format!("has an unreadable {WEIGHTS}: {e}");
    let header = header(bytes).ok_or_else(|| unreadable(&"it is cut off"))?;
    let header = metadata(header).map_err(|e| unreadable(&e))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| unreadable(&e))?;
    // What `super::save` wrote; PEFT's files have none.
    let recorded = header
        .metadata()
        .as_ref()
        .and_then(|texts| texts.get(FINGERPRINT));
    if recorded.is_some_and(|recorded| recorded != fingerprint) {
        let base = settings["base_model_name_or_path"]
            .as_str()
            .unwrap_or_default();
        return Err(format!(
            "was trained on another base model, `{base}`: name that one"
        ));
    }
    Ok(file)
}

/// The JSON at the beginning of a safetensors file; none where it is cut off.
fn header(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// The alpha that gives a scale of 1, see [`LoraConfig::scale`].
fn unit_alpha(rank: usize, rslora: bool) -> f64 {
    if rslora {
        (rank as f64).sqrt()
    } else {
        rank as f64
    }
}

/// `lora` with one rank, the largest of `places`, and a scale of 1.
fn in_common(lora: LoraConfig, places: &[Place]) -> LoraConfig {
    let ranks = places.iter().map(|place| place.rank);
    let r = ranks.max().unwrap_or(lora.r);
    LoraConfig {
        r,
        alpha: unit_alpha(r, lora.rslora),
        ..lora
    }
}

/// The factors of `place` as `file` has them, under `names`, for a projection with so many outputs
/// and inputs.
fn stored(
    file: &SafeTensors<'_>,
    names: &HashMap<(Site, usize), String>,
    place: &Place,
    (outputs, inputs): (usize, usize),
    dora: bool,
) -> Result<Factors, String> {
    let take = |which: usize, dims: &[usize]| tensor(file, &names[&(place.site, which)], dims);
    let (a, b) = (
        take(0, &[place.rank, inputs])?,
        take(1, &[outputs, place.rank])?,
    );
    let mut found = Factors::new(a, b);
    if dora {
        found.magnitude = Some(Magnitude::new(take(2, &[outputs])?));
    }
    Ok(found)
}

/// `factors` with the scale `own` in B, filled up to `rank` with zeros.
fn widened(factors: Factors, rank: usize, own: f64) -> Result<Factors> {
    let (b, missing) = ((&factors.b * own)?, rank - factors.a.dim(0)?);
    Ok(Factors {
        a: factors.a.pad_with_zeros(0, 0, missing)?,
        b: b.pad_with_zeros(1, 0, missing)?,
        magnitude: factors.magnitude,
    })
}

/// The name in `file` of every tensor that `places` need, by site and index in [`NAMES`].
///
/// # Errors
/// One is missing, or there is one that no place needs.
fn places_of_tensors(
    file: &SafeTensors<'_>,
    places: &[Place],
    dora: bool,
) -> Result<HashMap<(Site, usize), String>, String> {
    let used = if dora { &NAMES[..] } else { &NAMES[..2] };
    let mut keys = HashMap::new();
    for place in places {
        for (which, kind) in used.iter().enumerate() {
            keys.insert(super::key(&place.site, kind), (place.site, which));
        }
    }
    let mut found = HashMap::new();
    let mut names: Vec<&str> = file.names();
    names.sort_unstable();
    for name in names {
        let plain = plain_name(name);
        // Some programs save an adapter without the name of PEFT's wrapper.
        let place = keys
            .get(&plain)
            .or_else(|| keys.get(&format!("base_model.model.{plain}")));
        let Some(place) = place else {
            return Err(format!(
                "has the tensor `{name}`, which its {CONFIG} does not explain"
            ));
        };
        if let Some(other) = found.insert(*place, name.to_owned()) {
            return Err(format!(
                "has both `{other}` and `{name}`: several adapters in one file are not read"
            ));
        }
    }
    match keys
        .iter()
        .filter(|(_, place)| !found.contains_key(place))
        .map(|(key, _)| key)
        .min()
    {
        Some(key) => Err(format!("lacks `{key}`, which its {CONFIG} asks for")),
        None => Ok(found),
    }
}

/// `name` as PEFT saves it; a state dict has the adapter's own name in it, as in
/// `lora_A.default.weight`, and for magnitudes may have a `.weight` after it.
fn plain_name(name: &str) -> String {
    for kind in ["lora_A", "lora_B"] {
        if let Some((module, rest)) = name.split_once(&format!(".{kind}."))
            && let Some(own) = rest.strip_suffix(".weight")
            && !own.contains('.')
        {
            return format!("{module}.{kind}.weight");
        }
    }
    match name.split_once(".lora_magnitude_vector") {
        Some((module, rest)) if rest.split('.').count() <= 3 && !rest.ends_with("bias") => {
            format!("{module}.lora_magnitude_vector")
        }
        _ => name.to_owned(),
    }
}

/// The tensor `name` in `f32` on the CPU.
fn tensor(file: &SafeTensors<'_>, name: &str, dims: &[usize]) -> Result<Tensor, String> {
    let view = file
        .tensor(name)
        .map_err(|e| format!("has an unreadable `{name}`: {e}"))?;
    if view.shape() != dims {
        return Err(format!(
            "has `{name}` of shape {:?}, this base and its {CONFIG} make it {dims:?}",
            view.shape()
        ));
    }
    if let Some((index, value)) = first_broken(view.dtype(), view.data()) {
        return Err(format!("has {value} at element {index} of `{name}`"));
    }
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(format!(
                "has `{name}` in the element type {other:?}, which is not read"
            ));
        }
    };
    let read = Tensor::from_raw_buffer(view.data(), dtype, dims, &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32));
    read.map_err(|e| format!("has an unreadable `{name}`: {e}"))
}
