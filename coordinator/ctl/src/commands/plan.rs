use std::process::ExitCode;

use clap::Args;
use qlora_config::DeviceKind;
use qlora_planner::{Arrangement, DeviceBudget, Keep, Thrift, arrange, find, fit};
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
    /// Memory of the device in GiB: what would be kept there, and exit code 6 where the run does not fit.
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
        let budget = self.memory.map(|gib| DeviceBudget { kind, bytes: (gib * (1u64 << 30) as f64) as u64 });
        // Without a budget it is the least that is asked for.
        let arrangement = match budget {
            Some(_) => arrange(&model.shape, config, budget),
            None => Arrangement::least(&model.shape, config, kind),
        };
        let parts = arrangement.plan(&model.shape, config, kind);
        let Arrangement { thrift, keeps, written_out } = &arrangement;
        let kept = Keep::counted(keeps);
        if context.global.json {
            let (device, total) = (kind.to_string(), parts.total());
            print_json(&json!({
                "v": 1, "device": device, "total": total, "parts": parts, "kept": kept, "thrift": thrift,
                "written_out": written_out,
            }));
        } else {
            let each = match config.resources.workers {
                0 | 1 => String::new(),
                workers => format!(", on each of {workers} workers"),
            };
            println!(
                "{} on {kind}, {} x {} tokens{each}",
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
            let kept: Vec<String> = kept.iter().map(|(keep, blocks)| format!("{keep} of {blocks} blocks")).collect();
            println!("kept between forward and backward: {}", kept.join("; "));
            if *written_out > 0 {
                println!("frozen weights of {written_out} blocks stay dequantised");
            }
            match thrift {
                Thrift::Nothing => {}
                Thrift::FewLogits => println!("to save memory: fewer rows of logits at one time"),
                Thrift::HostEmbedding => {
                    println!("to save memory: fewer rows of logits at one time, the embedding in the machine's memory")
                }
            }
        }
        if let (Some(memory), Some(budget)) = (self.memory, budget) {
            fit(&model.shape, config, budget)?;
            context.say(format!("fits in {memory} GiB"));
        }
        Ok(Exit::Done.into())
    }
}
