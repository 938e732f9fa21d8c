//! `qlora-worker bench`: training speed and memory, as a table or as JSON.

use std::process::{Command, ExitCode};

use qlora_config::{Layers, ResolvedConfig};
use qlora_planner::catalogue;
use qlora_proto::words::count;
use qlora_trainer::bench::{Extent, Figures, Parts, Steps, Timing, data_sheet_rate, measure};
use qlora_trainer::weights::Checkpoint;
use serde::Serialize;

use crate::agent::KEEP_MEMORY;
use crate::cli::BenchArgs;
use crate::error::WorkerError;
use crate::models::{self, Quiet};
use crate::output::{print, print_json};
use crate::platform::{Accelerator, nvidia};

/// Measures in a process with the environment of a training process.
pub fn run(args: &BenchArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
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
    measure_here(args, as_json)
}

fn measure_here(args: &BenchArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
    let quantization = if args.random_weights { "nf4" } else { "auto" };
    let mut set = vec![
        format!("model.base={}", args.model),
        format!("model.quantization={quantization}"),
        format!("data.max_seq_len={}", args.length),
        "data.train=none".into(),
        format!("resources.device={}", args.device),
        "training.warmup_ratio=0".into(),
    ];
    set.extend(args.set.iter().cloned());
    let config = Layers {
        set,
        ..Layers::default()
    }
    .resolve()?;
    let mut checkpoint = checkpoint(args, &config)?;
    let model_layers = checkpoint.files.shape.layers;
    if let Some(layers) = args.layers {
        checkpoint.files.shape.layers = part(layers as usize, model_layers, args.random_weights)?;
    }
    let steps = if args.once {
        Steps::Once
    } else {
        Steps::Warm(args.steps as usize)
    };
    let extent = Extent {
        length: args.length,
        steps,
        kernels: args.kernels,
    };
    let before = first_gpu().and_then(|gpu| nvidia::energy(&gpu.id));
    let figures = measure(&config, &checkpoint, extent)?;
    let gpu = (figures.device == "GPU")
        .then(|| Gpu::of(&figures, before))
        .flatten();
    if as_json {
        print_json(&json(&figures, model_layers, gpu.as_ref()))?;
    } else {
        print_figures(&args.model, &figures, model_layers, gpu.as_ref())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Blocks to measure instead of all; only random weights have blocks beyond those of the model.
fn part(layers: usize, model_layers: usize, random: bool) -> Result<usize, WorkerError> {
    if layers > model_layers && !random {
        let text = format!(
            "--layers {layers} is more than the {model_layers} of the model; add --random-weights"
        );
        return Err(WorkerError::Input(text));
    }
    Ok(layers)
}

/// What NVML adds to the figures of a GPU.
#[derive(Serialize)]
struct Gpu {
    name: String,
    driver: String,
    /// From before loading to after the last measurement.
    joules: Option<f64>,
    /// Of the rate on the GPU's data sheet, where that is known.
    model_flops_utilization: Option<f64>,
}

/// The one that is measured.
fn first_gpu() -> Option<Accelerator> {
    nvidia::all().ok()?.into_iter().next()
}

impl Gpu {
    fn of(figures: &Figures, before: Option<f64>) -> Option<Self> {
        let gpu = first_gpu()?;
        Some(Self {
            joules: nvidia::energy(&gpu.id)
                .zip(before)
                .map(|(after, before)| after - before),
            model_flops_utilization: data_sheet_rate(&gpu.name)
                .map(|rate| figures.operations_per_second / rate),
            name: gpu.name,
            driver: gpu.driver,
        })
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

fn print_figures(
    model: &str,
    figures: &Figures,
    model_layers: usize,
    gpu: Option<&Gpu>,
) -> Result<(), WorkerError> {
    print(format!("model         {model}"))?;
    if figures.layers != model_layers {
        print(format!(
            "layers        {} instead of {model_layers}",
            figures.layers
        ))?;
    }
    print(format!("tokens/s      {:.0}", figures.tokens_per_second))?;
    let how = if figures.warmed_up {
        format!("median of {}", figures.steps)
    } else {
        "the first step, nothing was warmed up".into()
    };
    print(format!(
        "seconds/step  {:.2} ({} tokens, {how})",
        figures.seconds_per_step, figures.tokens_per_step
    ))?;
    if let Some(Parts {
        forward,
        backward,
        update,
    }) = figures.seconds
    {
        print(format!(
            "parts         forward {forward:.2} s, backward {backward:.2} s, update {update:.2} s"
        ))?;
    }
    print(format!(
        "arithmetic    {:.2} TFLOP/s",
        figures.operations_per_second / 1e12
    ))?;
    print(format!(
        "peak memory   {:.0} MB",
        figures.peak_bytes as f64 / 1e6
    ))?;
    print(format!(
        "planned       {:.0} MB without the program itself",
        figures.planned_bytes as f64 / 1e6
    ))?;
    let saved: Vec<String> = figures
        .saved
        .iter()
        .map(|(part, blocks)| format!("{part} of {}", count(*blocks as u64, "block")))
        .collect();
    print(format!("saved         {}", saved.join("; ")))?;
    if let Some(attention) = &figures.attention {
        print(format!("attention     {attention}"))?;
    }
    print(format!("operations    {}", figures.operations))?;
    print(format!(
        "first step    {:.2} s after the start of the process",
        figures.first_step_seconds
    ))?;
    print(format!("threads       {}", figures.threads))?;
    if let Some(gpu) = gpu {
        print(format!("GPU           {}, driver {}", gpu.name, gpu.driver))?;
        if let Some(share) = gpu.model_flops_utilization {
            print(format!(
                "utilization   {:.1} % of the data sheet's rate",
                100.0 * share
            ))?;
        }
        if let Some(joules) = gpu.joules {
            print(format!(
                "energy        {joules:.0} J from loading to the end"
            ))?;
        }
    }
    if !figures.kernels.is_empty() {
        print_kernels(&figures.kernels, figures.seconds_per_step)?;
    }
    Ok(())
}

/// Every operation in the order of a step.
fn print_kernels(kernels: &[Timing], seconds_per_step: f64) -> Result<(), WorkerError> {
    print("")?;
    print(format!(
        "{:<38} {:>10}  {:>15} {:>7} {:>6} {:>10}",
        "operation", "ms", "rate", "share", "runs", "ms a step"
    ))?;
    for Timing {
        name,
        milliseconds,
        rate,
        unit,
        share,
        calls,
        step_milliseconds,
        ..
    } in kernels
    {
        let rate = if *unit == "B/s" {
            format!("{:.1} G{unit}", rate / 1e9)
        } else {
            format!("{:.2} T{unit}", rate / 1e12)
        };
        let share = format!("{:.1} %", 100.0 * share);
        print(format!(
            "{name:<38} {milliseconds:>10.4}  {rate:>15} {share:>7} {calls:>6} {step_milliseconds:>10.2}"
        ))?;
    }
    let sum: f64 = kernels.iter().map(|timing| timing.step_milliseconds).sum();
    print(format!("{:<38} {:>53.2}", "sum", sum))?;
    print(format!("{:<38} {:>53.2}", "step", seconds_per_step * 1e3))
}

fn checkpoint(args: &BenchArgs, config: &ResolvedConfig) -> Result<Checkpoint, WorkerError> {
    if !args.random_weights {
        let model = models::resolve(
            config.config().model.base.as_deref().unwrap_or_default(),
            &Quiet,
        )?;
        return Ok(Checkpoint::open(&models::prepared(
            &model,
            &config.config().model,
            &mut |_, _| Ok(()),
        ))?);
    }
    // The beginning of a name is enough: nothing is fetched, so nothing can be taken for something
    // else.
    let known = catalogue();
    let entry = known
        .iter()
        .find(|entry| entry.name.starts_with(&args.model))
        .ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|entry| entry.name).collect();
            WorkerError::Input(format!(
                "`{}` is no model of the catalogue; there are {}",
                args.model,
                names.join(", ")
            ))
        })?;
    Ok(Checkpoint::random(
        entry.shape.clone(),
        config.config().training.seed,
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(args: &[&str]) -> Result<BenchArgs, clap::Error> {
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
}
