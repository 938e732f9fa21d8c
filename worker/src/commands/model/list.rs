use std::process::ExitCode;

use clap::Args;
use qlora_planner::catalogue;
use serde_json::json;

use crate::error::WorkerError;
use crate::models::Cache;
use crate::output::{print, print_json};

/// Names the models that are known, and those that are here.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct List {}

const EXAMPLE: &str = "Example:
  qlora-worker model list --json";

impl List {
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let cache = Cache::open().ok();
        for entry in catalogue() {
            let here = cache.as_ref().is_some_and(|c| c.has(&entry));
            if as_json {
                print_json(&json!({
                    "v": 1, "model": entry.name, "repository": entry.repository, "here": here,
                    "parameters": entry.shape.parameters(), "gated": entry.gated,
                    "license": entry.license,
                }))?;
                continue;
            }
            let billions = entry.shape.parameters() as f64 / 1e9;
            let here = if here { "here" } else { "not here" };
            print(format!(
                "{:<24} {billions:>5.2}B  {here:<9} {:<42} {}",
                entry.name, entry.repository, entry.license
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
