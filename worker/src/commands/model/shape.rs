use std::process::ExitCode;

use clap::Args;
use qlora_trainer::weights::{format_of, shape_of};
use serde_json::json;

use crate::error::WorkerError;
use crate::models;
use crate::output::{print, print_json};

/// Prints the sizes of a model that is here, from its config.json or its header.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Shape {
    /// Catalogue name, name of the hub, folder or .gguf file.
    name: String,
}

const EXAMPLE: &str = "Example:
  qlora-worker model shape models/tiny";

impl Shape {
    /// A model that is not on this machine is not fetched for it.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let path = models::local(&self.name)?;
        let (shape, format) = (shape_of(&path)?, format_of(&path));
        if as_json {
            print_json(
                &json!({"v": 1, "model": self.name, "path": path, "format": format, "shape": shape}),
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        print(format!(
            "parameters    {:.2}B",
            shape.parameters() as f64 / 1e9
        ))?;
        print(format!("layers        {}", shape.layers))?;
        print(format!(
            "hidden        {}, feed-forward {}",
            shape.hidden, shape.ffn
        ))?;
        print(format!(
            "heads         {} of {}, {} of keys and values",
            shape.heads, shape.head_dim, shape.kv_heads
        ))?;
        print(format!("vocabulary    {}", shape.vocabulary))?;
        print(format!("positions     {}", shape.max_positions))?;
        Ok(ExitCode::SUCCESS)
    }
}
