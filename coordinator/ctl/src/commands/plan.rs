use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_config::{ConfigErrors, DeviceKind, TrainingConfig};
use qlora_planner::{
    DenseAttention, DeviceBudget, LowMemory, MemoryPlan, MemoryPolicy, ModelShape,
    SavedActivations, WeightFormat, dense_attention, estimate, find, fit, least, misfits, search,
    unmet_quantization,
};
use qlora_proto::numbers::decimal;
use qlora_proto::words::count;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::checked::unfit;
use crate::input::resolved::Resolved;
use crate::input::source::ConfigSource;
use crate::output::{human, print, print_json};
use crate::programs::worker_says;

/// Predict the memory of a configuration, and hold it against a device.
///
/// A file needs no coordinator. The model is one of the catalogue, or lies on this machine.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    source: ConfigSource,
    /// Memory of the device in GiB: what would be kept there, and exit code 6 where the run does
    /// not fit.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, value_parser = decimal("a number of GiB", 1e-6..=1e6))]
    memory: Option<f64>,
}

/// A model with its shape: of the catalogue, or on this machine, where `qlora-worker` reads
/// `config.json` or the header.
async fn shape_of(name: &str) -> Result<(ModelShape, WeightFormat), CtlError> {
    if let Some(entry) = find(name) {
        return Ok((entry.shape, (&entry.format).into()));
    }
    let said = worker_says(&["model", "shape", name, "--json"]).await.map_err(|fault| match fault {
        CtlError::NoModel { message, code, .. } if !Path::new(name).exists() => CtlError::NoModel {
            message: format!("plan cannot tell the memory of `{name}`: {message}"),
            help: "fetch it here first with `qlora-worker model fetch`; or submit it: the worker refuses before the first step what does not fit".into(),
            code,
        },
        other => other,
    })?;
    let found = serde_json::from_str::<Value>(&said).and_then(|mut said| {
        let shape = serde_json::from_value(said["shape"].take())?;
        Ok((shape, serde_json::from_value(said["format"].take())?))
    });
    found.map_err(|e| CtlError::Process {
        what: "qlora-worker".into(),
        fault: format!("gave no shape of {name}: {e}"),
        help: "build all programs from one source: cargo build --release".into(),
    })
}

/// What a configuration needs of a device.
struct Prediction<'a> {
    model: &'a str,
    config: &'a TrainingConfig,
    kind: DeviceKind,
    policy: MemoryPolicy,
    parts: MemoryPlan,
    dense: Option<DenseAttention>,
}

impl Plan {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let Resolved {
            config: resolved,
            layers,
            ..
        } = self.source.resolve(context).await?;
        context.warn(resolved.warnings());
        let config = resolved.config();
        let name = config.model.base.clone().unwrap_or_default();
        let (shape, format) = shape_of(&name).await?;
        let unmet = unmet_quantization(format, &config.model).into_iter();
        let misfits = unmet.chain(misfits(&shape, config));
        let faults: Vec<_> = misfits.map(|misfit| unfit(&layers, misfit)).collect();
        if !faults.is_empty() {
            return Err(CtlError::Config(ConfigErrors(faults)));
        }
        let kind = if config.resources.device == DeviceKind::Any {
            DeviceKind::Cpu
        } else {
            config.resources.device
        };
        let budget = self.memory.map(|gib| DeviceBudget {
            kind,
            bytes: (gib * (1u64 << 30) as f64) as u64,
        });
        // Without a budget it is the least that is asked for.
        let policy = match budget {
            Some(_) => search(&shape, config, budget),
            None => least(&shape, config, kind),
        };
        let parts = estimate(&shape, config, kind, &policy);
        let fits = budget.map(|budget| fit(&shape, config, budget).map(drop));
        let prediction = Prediction {
            model: &name,
            config,
            kind,
            policy,
            parts,
            dense: dense_attention(&shape, config, kind),
        };
        if context.global.json {
            prediction.json(self.memory, fits.as_ref().map(Result::is_ok))?;
        } else {
            prediction.print()?;
        }
        if let (Some(memory), Some(fits)) = (self.memory, fits) {
            fits?;
            context.say(format!("fits in {memory} GiB"));
        }
        Ok(Exit::Done.into())
    }
}

impl Prediction<'_> {
    /// What is to be known of the device beside the bytes.
    fn notes(&self) -> Vec<String> {
        self.dense.iter().map(ToString::to_string).collect()
    }

    fn json(&self, memory: Option<f64>, fits: Option<bool>) -> Result<(), CtlError> {
        let MemoryPolicy {
            low_memory,
            saved,
            dequantized,
        } = &self.policy;
        print_json(&json!({
            "v": 1, "model": self.model, "device": self.kind.to_string(),
            "micro_batch_size": self.config.training.micro_batch_size, "max_seq_len": self.config.data.max_seq_len,
            "workers": self.config.resources.workers, "total": self.parts.total(), "parts": self.parts,
            "saved": SavedActivations::counted(saved), "low_memory": low_memory, "dequantized": dequantized,
            "memory_gib": memory, "fits": fits, "notes": self.notes(),
        }))
    }

    fn print(&self) -> Result<(), CtlError> {
        let MemoryPolicy {
            low_memory,
            saved,
            dequantized,
        } = &self.policy;
        let parts = &self.parts;
        let each = match self.config.resources.workers {
            0 | 1 => String::new(),
            workers => format!(", on each of {workers} workers"),
        };
        print(format!(
            "{} on {}, {} x {} tokens{each}",
            console::line(self.model),
            self.kind,
            self.config.training.micro_batch_size,
            self.config.data.max_seq_len
        ))?;
        let rows = [
            ("weights", parts.weights),
            ("adapters", parts.adapters),
            ("activations", parts.activations),
            ("scratch", parts.scratch),
            ("overhead", parts.overhead),
            ("total", parts.total()),
        ];
        for (name, n) in rows {
            print(format!("  {name:<12} {:>10}", human::gib(n)))?;
        }
        let blocks = |blocks: &usize| count(*blocks as u64, "block");
        let counts: Vec<String> = SavedActivations::counted(saved)
            .iter()
            .map(|(part, n)| format!("{part} of {}", blocks(n)))
            .collect();
        print(format!(
            "saved between forward and backward: {}",
            counts.join("; ")
        ))?;
        if *dequantized > 0 {
            print(format!(
                "frozen weights of {} stay dequantized",
                blocks(dequantized)
            ))?;
        }
        for note in self.notes() {
            print(note)?;
        }
        match low_memory {
            LowMemory::Off => Ok(()),
            LowMemory::FewLogits => print("to save memory: fewer rows of logits at one time"),
            LowMemory::HostEmbedding => print(
                "to save memory: fewer rows of logits at one time, the embedding in host memory",
            ),
        }
    }
}
