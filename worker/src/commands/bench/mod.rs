mod gpu;
mod table;

use std::process::{Command, ExitCode};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use qlora_config::{Layers, ResolvedConfig};
use qlora_planner::{CatalogueEntry, catalogue, find};
use qlora_proto::numbers::whole;
use qlora_trainer::bench::{Extent, Figures, Instructions, Steps, measure};
use qlora_trainer::weights::Checkpoint;

use self::gpu::Gpu;
use crate::agent::KEEP_MEMORY;
use crate::error::WorkerError;
use crate::models::{self, Quiet};
use crate::output::print_json;

/// Measures training speed and memory on this machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Bench {
    /// Catalogue name, folder or .gguf file.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    model: String,
    /// Seeded random weights of the true shape of a catalogue model: nothing is downloaded.
    #[arg(long)]
    random_weights: bool,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 512, allow_negative_numbers = true, value_parser = whole::<usize>("a number of tokens", 1..))]
    length: usize,
    /// Steps that are measured.
    #[arg(long, default_value_t = 5, allow_negative_numbers = true, value_parser = whole::<usize>("a number of steps", 1..))]
    steps: usize,
    /// Measure the first step and no other, without a warm-up: for steps that take minutes.
    #[arg(long, conflicts_with = "steps")]
    once: bool,
    /// Measure only the first N blocks of the model; random weights may have more than the model.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>("a number of blocks", 1..))]
    layers: Option<usize>,
    /// Time every operation of a step as well.
    #[arg(long)]
    kernels: bool,
    /// Where to measure: cpu, cuda or metal.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Make a CPU's products in bf16 with these instructions, not with the best that it has.
    #[arg(long, value_parser = instructions())]
    instructions: Option<Instructions>,
    /// A configuration key, as with qlora-ctl submit; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Those that a CPU may have, by name.
fn instructions() -> impl TypedValueParser<Value = Instructions> {
    let name = |text: String| {
        let mut known = Instructions::KNOWN.into_iter();
        known.find(|instructions| instructions.name() == text)
    };
    PossibleValuesParser::new(Instructions::KNOWN.map(Instructions::name))
        .try_map(move |text| name(text).ok_or("no instructions of this name"))
}

const EXAMPLE: &str = "Example:
  qlora-worker bench --model llama-3.1-8b-instruct --random-weights --device cuda";

impl Bench {
    /// Measures in a process with the environment of a training process.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let (name, value) = KEEP_MEMORY;
        if std::env::var_os(name).is_none() {
            let program = std::env::current_exe().map_err(WorkerError::io("this program"))?;
            let status = Command::new(&program)
                .args(std::env::args_os().skip(1))
                .env(name, value)
                .status();
            let code = status
                .map_err(WorkerError::io(program))?
                .code()
                .unwrap_or(1);
            return Ok(ExitCode::from(code as u8));
        }
        self.measure(as_json)
    }

    fn config(&self) -> Result<ResolvedConfig, WorkerError> {
        let quantization = if self.random_weights { "nf4" } else { "auto" };
        let mut set = vec![
            format!("model.base={}", self.model),
            format!("model.quantization={quantization}"),
            format!("data.max_seq_len={}", self.length),
            "data.train=none".into(),
            format!("resources.device={}", self.device),
            "training.warmup_ratio=0".into(),
        ];
        set.extend(self.set.iter().cloned());
        Ok(Layers {
            set,
            ..Layers::default()
        }
        .resolve()?)
    }

    fn measure(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        if self.instructions.is_some() && self.device != "cpu" {
            return Err(WorkerError::Usage {
                fault: format!("--instructions are a CPU's, not those of {}", self.device),
                help: "leave one of --instructions and --device out",
            });
        }
        let config = self.config()?;
        let mut checkpoint = checkpoint(self, &config)?;
        let model_layers = checkpoint.files.shape.layers;
        if let Some(layers) = self.layers {
            checkpoint.files.shape.layers = part(layers, model_layers, self.random_weights)?;
        }
        let steps = if self.once {
            Steps::Once
        } else {
            Steps::Warm(self.steps)
        };
        let extent = Extent {
            length: self.length,
            steps,
            kernels: self.kernels,
            instructions: self.instructions,
        };
        let before = gpu::energy();
        let figures = measure(&config, &checkpoint, extent)?;
        let gpu = (figures.device == "GPU")
            .then(|| Gpu::of(&figures, before))
            .flatten();
        if as_json {
            print_json(&json(&figures, model_layers, gpu.as_ref()))?;
        } else {
            table::print_figures(&self.model, &figures, model_layers, gpu.as_ref())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn json(figures: &Figures, model_layers: usize, gpu: Option<&Gpu>) -> serde_json::Value {
    let mut value = serde_json::to_value(figures).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("v".into(), 1.into());
        object.insert("model_layers".into(), model_layers.into());
        if let Some(gpu) = gpu {
            object.insert("gpu".into(), serde_json::to_value(gpu).unwrap_or_default());
        }
    }
    value
}

/// Blocks to measure instead of all; only random weights have blocks beyond those of the model.
fn part(layers: usize, model_layers: usize, random: bool) -> Result<usize, WorkerError> {
    if layers > model_layers && !random {
        return Err(WorkerError::Usage {
            fault: format!("--layers {layers} is more than the {model_layers} of the model"),
            help: "lower it; --random-weights measures any number of a model of the catalogue",
        });
    }
    Ok(layers)
}

fn checkpoint(args: &Bench, config: &ResolvedConfig) -> Result<Checkpoint, WorkerError> {
    if !args.random_weights {
        let model = models::resolve(
            config.config().model.base.as_deref().unwrap_or_default(),
            &Quiet,
        )?;
        let config = &config.config().model;
        let prepared = models::prepared(&model, config, &mut |_, _| Ok(()));
        return Ok(Checkpoint::open_as(&prepared, config)?);
    }
    let entry = known(&args.model)?;
    Ok(Checkpoint::random(
        entry.shape,
        config.config().training.seed,
    ))
}

/// The model of the catalogue that `name` names, or is the beginning of, where it is that of one.
fn known(name: &str) -> Result<CatalogueEntry, WorkerError> {
    if let Some(entry) = find(name) {
        return Ok(entry);
    }
    let mut alike = catalogue();
    alike.retain(|entry| entry.name.starts_with(name));
    let names: Vec<&str> = alike.iter().map(|entry| entry.name).collect();
    if names.len() > 1 {
        return Err(WorkerError::Usage {
            fault: format!("`{name}` is the beginning of {}", names.join(", ")),
            help: "write one of these names whole",
        });
    }
    alike.pop().ok_or_else(|| models::unnamed(name).into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(args: &[&str]) -> Result<Bench, clap::Error> {
        let cli = Cli::try_parse_from(["qlora-worker", "bench"].iter().chain(args))?;
        match cli.command {
            Some(Command::Bench(args)) => Ok(args),
            other => panic!("{other:?} is not bench"),
        }
    }

    #[test]
    fn one_step_and_a_number_of_steps_exclude_each_other() {
        assert!(parsed(&["--once"]).is_ok_and(|args| args.once && args.layers.is_none()));
        assert!(parsed(&["--steps", "3"]).is_ok_and(|args| !args.once && args.steps == 3));
        assert!(parsed(&["--once", "--steps", "3"]).is_err());
        assert!(parsed(&["--layers", "0"]).is_err());
    }

    #[test]
    fn only_random_weights_have_blocks_beyond_those_of_the_model() {
        assert_eq!(part(2, 30, false).ok(), Some(2));
        assert_eq!(part(40, 30, true).ok(), Some(40));
        assert!(part(40, 30, false).is_err_and(|e| e.to_string().contains("--layers 40")));
    }

    #[test]
    fn a_name_or_the_beginning_of_one_alone_is_a_model_of_the_catalogue() {
        let name = |text: &str| known(text).map(|entry| entry.name);
        assert_eq!(name("qwen3-4b").ok(), Some("qwen3-4b"));
        assert_eq!(name("Qwen/Qwen3-4B").ok(), Some("qwen3-4b"));
        assert_eq!(name("mistral-7b").ok(), Some("mistral-7b-instruct"));
        for (text, words) in [
            ("llama-3.2", "llama-3.2-1b-instruct, llama-3.2-3b-instruct"),
            ("gemma-3-27b-it", "no model of the catalogue"),
        ] {
            let fault = name(text).expect_err(text).to_string();
            assert!(fault.contains(words), "{fault}");
        }
    }
}
