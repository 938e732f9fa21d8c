use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use qlora_trainer::export::Base;
use serde_json::json;

use super::export::{self, GgufType};
use crate::error::WorkerError;
use crate::interrupt;
use crate::models;
use crate::output::{number, placed, print, print_json};

/// Merges an adapter into its base model: a folder or .gguf file that needs no adapter.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Merge {
    /// Catalogue name, Hugging Face folder of the 16- or 32-bit base model, or .gguf file.
    #[arg(long)]
    model: String,
    /// Adapter folder.
    #[arg(long)]
    adapter: PathBuf,
    /// Folder or .gguf file to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// The base's own weights, or those after NF4 and back, which the adapter was trained on. A
    /// .gguf base has only its own.
    #[arg(long, value_enum, default_value_t = MergeBase::Original)]
    into: MergeBase,
    /// How a .gguf file holds the matrices that are written anew [default: f16]
    #[arg(long = "type", value_enum)]
    element: Option<GgufType>,
}

const EXAMPLE: &str = "Example:
  qlora-worker merge --model smollm2-135m-instruct --adapter adapter-1 --out merged.gguf";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MergeBase {
    Original,
    Dequantized,
}

impl Merge {
    /// Merges and tells how large the update and the loss by quantization are.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let base = match self.into {
            MergeBase::Original => Base::Original,
            MergeBase::Dequantized => Base::Dequantized,
        };
        let element = export::element(self.element, &self.out)?;
        placed(&self.out)?;
        export::clear(&self.out);
        let model = models::resolve(&self.model, &models::Quiet)?;
        let bar = export::progress(as_json, "merging");
        let mut watch = export::watcher(&bar, interrupt::listen()?);
        let merged = qlora_trainer::export::merge(
            &model,
            &self.adapter,
            &self.out,
            base,
            &export::held(),
            element.into(),
            &mut watch,
        );
        let merged = merged.map_err(export::ended(&self.out))?;
        bar.finish_and_clear();
        export::warn(&merged.notes);
        if as_json {
            print_json(&json!({
                "v": 1, "tensors": merged.tensors, "adapted": merged.adapted, "bytes": merged.bytes,
                "update": number(merged.update), "quantization": number(merged.quantization),
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        print(format!(
            "{} tensors, {} of them adapted, {} MB",
            merged.tensors,
            merged.adapted,
            merged.bytes / 1_000_000
        ))?;
        print(format!(
            "the update is {:.2} % of the weights that it changes",
            100.0 * merged.update
        ))?;
        if merged.quantization > 0.0 {
            print(format!(
                "original and dequantized weights differ by {:.2} %",
                100.0 * merged.quantization
            ))?;
        }
        print(format!("{}", self.out.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
