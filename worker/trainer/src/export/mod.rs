//! Models and adapters in the forms that other programs load.
//!
//! An adapter can be merged into its base ([`merge`]): training ran on the quantized base, so there
//! are two bases to merge into. The original weights keep what quantization lost, but the adapter
//! was not trained on them; the dequantized weights are those that it was trained on. Both are
//! offered, and the report says how far they lie apart.
//!
//! A result is a Hugging Face folder ([`folder`]) or a GGUF file ([`gguf`]). Tensors are read,
//! changed and written one at a time, under a temporary name that becomes the final one when
//! everything is there.

mod folder;
mod gguf;
mod merge;
mod outgoing;
mod publish;
mod report;
mod text;

use std::path::Path;

use candle_core::Device;
use qlora_config::ModelConfig;

use crate::lora::Adapters;
use crate::weights::Checkpoint;
use crate::{Error, Result, adapter};

pub use gguf::ElementType;
pub use merge::{Base, Merged};
pub use report::{Progress, Written};

/// Writes the model at `model` with the adapter in `adapter` to `out`, which must not exist: a GGUF
/// file of `element` where its name ends so, else a Hugging Face folder.
///
/// # Errors
/// A Hugging Face base does not hold 16- or 32-bit weights, the adapter belongs to another base, or
/// `out` exists.
pub fn merge(
    model: &Path,
    adapter: &Path,
    out: &Path,
    base: Base,
    config: &ModelConfig,
    element: ElementType,
    progress: Progress<'_>,
) -> Result<Merged> {
    let checkpoint = open_for(model, out)?;
    let adapters = load_adapter(adapter, &checkpoint)?;
    let trained = text::trained(adapter, &checkpoint.files)?;
    let mut merger = merge::Merger::new(&adapters, base, config);
    merger.note(checkpoint.files.notes.clone());
    merger.note(adapter::notes_of_base(adapter, &checkpoint.files)?);
    merger.note(
        trained
            .iter()
            .flat_map(|trained| trained.notes(&checkpoint.files)),
    );
    if is_gguf(out) {
        gguf::write_model(
            &checkpoint,
            out,
            element,
            trained.as_ref(),
            &mut merger,
            progress,
        )?;
    } else {
        folder::write_merged(&checkpoint, out, trained.as_ref(), &mut merger, progress)?;
    }
    Ok(merger.finish())
}

/// Writes the model at `model` to `out`, which must not exist: a GGUF file of `element` where its
/// name ends so, else a Hugging Face folder whose linear layers are NF4 as bitsandbytes serializes
/// them.
///
/// # Errors
/// The model's weights are quantized already, or `out` exists.
pub fn convert(
    model: &Path,
    out: &Path,
    config: &ModelConfig,
    element: ElementType,
    progress: Progress<'_>,
) -> Result<Written> {
    let checkpoint = open_for(model, out)?;
    if !is_gguf(out) {
        return folder::write_quantized(&checkpoint, out, config, progress);
    }
    let adapters = Adapters::without_effect(&checkpoint.files.shape, &Device::Cpu)?;
    let mut merger = merge::Merger::new(&adapters, Base::Original, config);
    merger.note(checkpoint.files.notes.clone());
    gguf::write_model(&checkpoint, out, element, None, &mut merger, progress)?;
    let Merged {
        tensors,
        bytes,
        notes,
        ..
    } = merger.finish();
    Ok(Written {
        tensors,
        bytes,
        notes,
    })
}

/// Whether [`convert`] can quantize the model at `model`: a Hugging Face folder of plain weights.
pub fn can_be_quantized(model: &Path) -> bool {
    Checkpoint::open(model)
        .is_ok_and(|checkpoint| checkpoint.shards().is_some_and(|s| s.quantized().is_none()))
}

/// Writes the adapter in `adapter` for the model at `model` to `out`, a GGUF file that must not
/// exist.
///
/// # Errors
/// The adapter belongs to another base, is one of DoRA, which GGUF has no form for, or `out`
/// exists.
pub fn convert_adapter(
    model: &Path,
    adapter: &Path,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Written> {
    let checkpoint = open_for(model, out)?;
    let adapters = load_adapter(adapter, &checkpoint)?;
    if adapters.config().dora {
        let fault =
            "is one of DoRA, for which GGUF has no form; merge it into the model".to_owned();
        return Err(Error::Adapter {
            path: adapter.into(),
            fault,
        });
    }
    let mut written = gguf::write_adapter(&checkpoint, &adapters, out, progress)?;
    written
        .notes
        .extend(adapter::notes_of_base(adapter, &checkpoint.files)?);
    Ok(written)
}

fn open_for(model: &Path, out: &Path) -> Result<Checkpoint> {
    if out.exists() {
        return Err(publish::present(out));
    }
    Checkpoint::open(model)
}

fn load_adapter(folder: &Path, checkpoint: &Checkpoint) -> Result<Adapters> {
    adapter::load(
        folder,
        &checkpoint.files.shape,
        &checkpoint.fingerprint()?,
        0,
        &Device::Cpu,
    )
}

/// Whether `out` is written as a GGUF file.
pub fn is_gguf(out: &Path) -> bool {
    out.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}
