//! A run frozen between two steps: adapter, optimizer state, data cursor, seed and configuration,
//! with checksums.
//!
//! A checkpoint is written into a folder of another name, synced, and renamed: under its final name
//! it is complete. A run that resumes from it repeats the uninterrupted one; on the CPU the result
//! is bit-identical.

use std::fs;
use std::path::Path;

use qlora_config::ResolvedConfig;
use qlora_data::Cursor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::adapter::{self, BaseModel};
use crate::best::BestMark;
use crate::lora::{Adapters, Factors};
use crate::model::Decoder;
use crate::optim::{Optimizer, moments};
use crate::partial::{self, Partial};
use crate::{Error, Result};

const MANIFEST: &str = "checkpoint.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Folder of the best adapter within a checkpoint.
pub const BEST: &str = "best";
/// Files of an adapter; the template is there where the run has one.
const ADAPTER_FILES: [&str; 5] = [
    adapter::CONFIG,
    adapter::WEIGHTS,
    adapter::CONSTANTS,
    adapter::TEMPLATE,
    adapter::RECORD,
];

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Steps done.
    pub step: u64,
    pub steps: u64,
    pub updates: u64,
    pub cursor: Cursor,
    pub seed: u64,
    pub config_hash: String,
    /// Held-out loss before the first step, so that a resumed run can still report it.
    pub first_evaluation: Option<f64>,
    #[serde(default)]
    pub best: Option<BestMark>,
    /// The run was stopped in the evaluation after this step, and has it still to make.
    #[serde(default)]
    pub evaluation_due: bool,
    /// SHA-256 of every other file, in hex.
    pub files: Vec<(String, String)>,
}

/// A checkpoint read back.
pub struct Restored {
    pub manifest: Manifest,
    pub adapters: Adapters,
    pub optimizer: Optimizer,
    /// The adapter of [`Manifest::best`], where the run keeps it.
    pub best: Option<Adapters>,
}

/// Writes a checkpoint to `folder`, replacing what lies there; `manifest.files` is filled in.
pub fn save(
    folder: &Path,
    mut manifest: Manifest,
    adapters: &Adapters,
    optimizer: &Optimizer,
    best: Option<&Adapters>,
    base: BaseModel<'_>,
) -> Result<()> {
    let whole = Partial::folder(folder).map_err(Error::io(folder))?;
    let partial = whole.path();
    adapter::save(adapters, base, partial)?;
    let (moments, path) = (
        moments::to_tensors(&optimizer.moments)?,
        partial.join(OPTIMIZER),
    );
    partial::write_tensors(&path, moments, None).map_err(Error::io(path))?;
    let written = || {
        ADAPTER_FILES
            .iter()
            .filter(|name| partial.join(name).exists())
    };
    let mut names: Vec<String> = written()
        .chain([&OPTIMIZER])
        .map(|name| (*name).to_owned())
        .collect();
    if let Some(best) = best {
        adapter::save(best, base, &partial.join(BEST))?;
        names.extend(written().map(|name| format!("{BEST}/{name}")));
    }
    manifest.files = names
        .into_iter()
        .map(|name| {
            let sum = checksum(&partial.join(&name))?;
            Ok((name, sum))
        })
        .collect::<Result<_>>()?;
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::Checkpoint {
        path: folder.into(),
        fault: e.to_string(),
    })?;
    partial::write(&partial.join(MANIFEST), text.as_bytes())
        .map_err(Error::io(folder.join(MANIFEST)))?;
    whole.replace().map_err(Error::io(folder))
}

/// Reads the checkpoint in `folder` after checking it against its checksums and the run's
/// configuration.
pub fn load(folder: &Path, config: &ResolvedConfig, decoder: &Decoder) -> Result<Restored> {
    let (shape, device) = (&decoder.shape, &decoder.device);
    let fault = |fault: String| Error::Checkpoint {
        path: folder.into(),
        fault,
    };
    let text =
        fs::read_to_string(folder.join(MANIFEST)).map_err(Error::io(folder.join(MANIFEST)))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|e| fault(format!("{MANIFEST} cannot be read: {e}")))?;
    if manifest.config_hash != config.hash() {
        return Err(fault(
            "it was made with another configuration; start a new job to change the configuration"
                .into(),
        ));
    }
    for (name, wanted) in &manifest.files {
        if checksum(&folder.join(name))? != *wanted {
            return Err(fault(format!(
                "{name} does not match its checksum; the file is damaged"
            )));
        }
    }
    // An adapter file does not say all that the run's configuration does, such as the rate of B.
    let lora = &config.config().lora;
    let read = |folder: &Path| {
        let factors =
            adapter::load(folder, shape, &decoder.fingerprint, manifest.seed, device)?.factors;
        Ok::<_, Error>(Adapters::from_factors(lora, shape, manifest.seed, factors))
    };
    let adapters = read(folder)?;
    let best = folder.join(BEST);
    let best = if best.exists() {
        Some(read(&best)?)
    } else {
        None
    };
    let tensors = candle_core::safetensors::load(folder.join(OPTIMIZER), device)?;
    let count = adapters.factors.iter().flat_map(Factors::tensors).count();
    let moments = moments::from_tensors(&tensors, count)
        .map_err(|name| fault(format!("{OPTIMIZER} lacks `{name}`")))?;
    let optimizer = Optimizer {
        moments,
        updates: manifest.updates,
    };
    Ok(Restored {
        manifest,
        adapters,
        optimizer,
        best,
    })
}

fn checksum(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hex::encode(hash.finalize()))
}
