//! Hugging Face folders: a base with an adapter merged into it, or with its linear layers in
//! bitsandbytes' NF4.

use std::fs;
use std::path::Path;

use candle_core::Device;
use qlora_config::ModelConfig;
use serde_json::{Map, Value, json};

use super::merge::{Merger, site_of};
use super::outgoing::Outgoing;
use super::publish::publish;
use super::report::{Progress, Written};
use super::text::{self, Trained};
use crate::partial::Partial;
use crate::weights::{Checkpoint, INDEX, ShardEntries, ShardEntry, ShardWriter, Shards, bnb};
use crate::{Error, Result};

/// Files beside the weights that make a folder a model.
const COMPANIONS: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    INDEX,
];

/// Writes `checkpoint` as `merger` changes it.
pub(super) fn write_merged(
    checkpoint: &Checkpoint,
    out: &Path,
    trained: Option<&Trained>,
    merger: &mut Merger<'_>,
    progress: Progress<'_>,
) -> Result<()> {
    let (shards, partial) = start(checkpoint, out)?;
    let total = shards.count();
    for shard in shards.files() {
        let mut writer = ShardWriter::create(&partial.path().join(&shard.name), &shard.entries)?;
        for entry in &shard.entries {
            let tensor = shards.native(&entry.name, &Device::Cpu)?;
            let merged = match site_of(&entry.name) {
                Some(site) => {
                    let (path, name) = (checkpoint.files.path.as_path(), entry.name.as_str());
                    let merged = merger.linear(site, &tensor)?;
                    let (cast, note) = Outgoing {
                        path,
                        name,
                        tensor: &merged,
                    }
                    .cast(tensor.dtype())?;
                    merger.note(note);
                    cast
                }
                None => tensor,
            };
            let bytes = writer.write(&merged)?;
            progress(merger.wrote(bytes), total)?;
        }
        writer.finish()?;
    }
    if let Some(trained) = trained {
        trained.write_into(partial.path())?;
    }
    publish(partial, out, total, progress)
}

/// Writes `checkpoint` with its linear layers quantized as `model` says, in the layout that
/// bitsandbytes and transformers load: codes beside scales, and a `quantization_config`.
pub(super) fn write_quantized(
    checkpoint: &Checkpoint,
    out: &Path,
    model: &ModelConfig,
    progress: Progress<'_>,
) -> Result<Written> {
    let (shards, partial) = start(checkpoint, out)?;
    let total = shards.count();
    let mut written = Written {
        notes: checkpoint.files.notes.clone(),
        ..Written::default()
    };
    let mut places = Map::new();
    for shard in shards.files() {
        let entries = quantized_entries(&shard, model);
        places.extend(
            entries
                .iter()
                .map(|entry| (entry.name.clone(), Value::from(shard.name.as_str()))),
        );
        let mut writer = ShardWriter::create(&partial.path().join(&shard.name), &entries)?;
        for entry in &shard.entries {
            let tensor = shards.native(&entry.name, &Device::Cpu)?;
            if site_of(&entry.name).is_some() {
                let nf4 = bnb::quantize(&tensor, model, &*qlora_kernels::backend::host())?;
                let nf4 = nf4.ok_or_else(|| {
                    shards.fault(
                        &entry.name,
                        &format!(
                            "{}; write a .gguf file with --type bf16 or f32",
                            bnb::BEYOND
                        ),
                    )
                })?;
                for bytes in bnb::parts(&nf4, tensor.dtype())? {
                    written.bytes += writer.write_bytes(&bytes)?;
                }
            } else {
                written.bytes += writer.write(&tensor)?;
            }
            written.tensors += 1;
            progress(written.tensors, total)?;
        }
        writer.finish()?;
    }
    describe(partial.path(), model, places, written.bytes)?;
    publish(partial, out, total, progress)?;
    Ok(written)
}

/// Begins a folder with everything but the weights.
fn start<'a>(checkpoint: &'a Checkpoint, out: &Path) -> Result<(&'a Shards, Partial)> {
    let from = &checkpoint.files.path;
    let fault = |fault: String| Error::Export {
        path: from.clone(),
        fault,
    };
    let shards = checkpoint.shards().ok_or_else(|| {
        fault("is a GGUF file; give the model's Hugging Face folder, or an --out of .gguf".into())
    })?;
    if let Some(name) = shards.quantized() {
        return Err(fault(format!(
            "holds quantized weights (`{name}`); give the 16-bit model"
        )));
    }
    let partial = Partial::folder(out).map_err(Error::io(out))?;
    let folder = partial.path();
    for name in COMPANIONS.iter().filter(|name| from.join(name).exists()) {
        fs::copy(from.join(name), folder.join(name)).map_err(Error::io(folder.join(name)))?;
    }
    // A `chat_template` that lists several is copied with its file; separate files are not
    // companions.
    if from.join("additional_chat_templates").is_dir() {
        text::write_named(folder, checkpoint.files.template.as_ref())?;
    }
    Ok((shards, partial))
}

fn quantized_entries(shard: &ShardEntries, model: &ModelConfig) -> Vec<ShardEntry> {
    let parts = |entry: &ShardEntry| match site_of(&entry.name) {
        Some(_) => bnb::entries(entry, model.block_size, model.double_quant),
        None => vec![entry.clone()],
    };
    shard.entries.iter().flat_map(parts).collect()
}

/// Says in `config.json` how the weights are held, and in the index where they lie.
fn describe(
    folder: &Path,
    model: &ModelConfig,
    places: Map<String, Value>,
    bytes: u64,
) -> Result<()> {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut config: Value =
        serde_json::from_str(qlora_data::strict::unmarked(&text)).map_err(|e| Error::Export {
            path: path.clone(),
            fault: format!("is not JSON: {e}"),
        })?;
    let dtype = config["torch_dtype"]
        .as_str()
        .or(config["dtype"].as_str())
        .unwrap_or("bfloat16")
        .to_owned();
    config["quantization_config"] = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": model.double_quant,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
    });
    fs::write(&path, format!("{config:#}\n")).map_err(Error::io(&path))?;
    let index = folder.join(INDEX);
    if index.exists() {
        let text = json!({"metadata": {"total_size": bytes}, "weight_map": places});
        fs::write(&index, format!("{text:#}\n")).map_err(Error::io(&index))?;
    }
    Ok(())
}
