use std::process::ExitCode;

use clap::Args;
use qlora_config::DeviceKind;
use qlora_planner::{DeviceBudget, find, fit, plan};
use serde_json::json;

use super::submit::ConfigSource;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, print_json};

/// Predict the memory of a configuration, and hold it against a device. Needs no coordinator.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    source: ConfigSource,
    /// Memory of the device in GiB; exit code 6 where the run does not fit.
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
}

impl Plan {
    pub fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let resolved = self.source.resolve()?.config;
        let config = resolved.config();
        let name = config.model.base.clone().unwrap_or_default();
        let model = find(&name).ok_or_else(|| CtlError::Usage {
            message: format!("the shape of `{name}` is not known here"),
            help: "plan knows the models of `qlora-worker model list`".into(),
        })?;
        let kind = if config.resources.device == DeviceKind::Any { DeviceKind::Cpu } else { config.resources.device };
        let parts = plan(&model.shape, config, kind);
        if context.global.json {
            print_json(&json!({"v": 1, "device": kind.to_string(), "total": parts.total(), "parts": parts}));
        } else {
            println!(
                "{} on {kind}, {} x {} tokens",
                model.name, config.training.micro_batch_size, config.data.max_seq_len
            );
            let rows = [
                ("weights", parts.weights),
                ("adapters", parts.adapters),
                ("activations", parts.activations),
                ("scratch", parts.scratch),
                ("overhead", parts.overhead),
                ("total", parts.total()),
            ];
            for (name, n) in rows {
                println!("  {name:<12} {:>10}", human::gib(n));
            }
        }
        if let Some(memory) = self.memory {
            let budget = DeviceBudget { kind, bytes: (memory * (1u64 << 30) as f64) as u64 };
            fit(&model.shape, config, budget)?;
            context.say(format!("fits in {memory} GiB"));
        }
        Ok(Exit::Done.into())
    }
}
