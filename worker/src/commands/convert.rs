use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::export::{self, GgufType};
use crate::error::WorkerError;
use crate::interrupt;
use crate::models;
use crate::output::{placed, print, print_json};

/// Writes a model or an adapter as another format: .gguf for llama.cpp, or a folder in
/// bitsandbytes' NF4.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Convert {
    /// Catalogue name, Hugging Face folder or .gguf file; with --adapter, the model that it was
    /// trained on.
    #[arg(long)]
    model: String,
    /// Adapter folder: it alone is written, as .gguf.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// A .gguf file, or a folder for the model with its linear layers in bitsandbytes' NF4; must
    /// not exist.
    #[arg(long)]
    out: PathBuf,
    /// How the .gguf file of a model holds matrices [default: f16]
    #[arg(long = "type", value_enum)]
    element: Option<GgufType>,
}

const EXAMPLE: &str = "Example:
  qlora-worker convert --model models/tiny --out tiny.gguf --type q8_0";

impl Convert {
    /// Converts a model, or an adapter where one is given.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let is_gguf = qlora_trainer::export::is_gguf(&self.out);
        if self.adapter.is_some() && !is_gguf {
            return Err(WorkerError::Usage {
                fault: format!(
                    "an adapter is written as a .gguf file, not {}",
                    self.out.display()
                ),
                help: "give --out a name that ends in .gguf",
            });
        }
        let element = export::element(self.element, &self.out)?;
        if self.adapter.is_some() && self.element.is_some() {
            return Err(WorkerError::Usage {
                fault: "--type says how the matrices of a model are held; the factors of an adapter stay in f32".into(),
                help: "leave --type out",
            });
        }
        placed(&self.out)?;
        export::clear(&self.out);
        let model = models::resolve(&self.model, &models::Quiet)?;
        let bar = export::progress(as_json, "writing");
        let mut watch = export::watcher(&bar, interrupt::listen()?);
        let written = match &self.adapter {
            Some(adapter) => {
                qlora_trainer::export::convert_adapter(&model, adapter, &self.out, &mut watch)
            }
            None => qlora_trainer::export::convert(
                &model,
                &self.out,
                &export::held(),
                element.into(),
                &mut watch,
            ),
        };
        let written = written.map_err(export::ended(&self.out))?;
        bar.finish_and_clear();
        export::warn(&written.notes);
        if as_json {
            print_json(&json!({"v": 1, "tensors": written.tensors, "bytes": written.bytes}))?;
        } else {
            print(format!(
                "{} tensors, {} MB",
                written.tensors,
                written.bytes / 1_000_000
            ))?;
            print(format!("{}", self.out.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
