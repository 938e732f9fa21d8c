//! `qlora-worker bench`: training speed and memory, as a table or as JSON.

use std::process::{Command, ExitCode};

use qlora_config::{Layers, ResolvedConfig};
use qlora_planner::catalogue;
use qlora_trainer::bench::{Extent, Figures, Parts, Timing, data_sheet_rate, measure};
use qlora_trainer::weights::Checkpoint;
use serde::Serialize;

use crate::agent::KEEP_MEMORY;
use crate::cli::BenchArgs;
use crate::error::WorkerError;
use crate::models::{self, Quiet};
use crate::platform::{Accelerator, nvidia};

/// Measures in a process with the environment of a training process.
pub fn run(args: &BenchArgs) -> Result<ExitCode, WorkerError> {
    let (name, value) = KEEP_MEMORY;
    if std::env::var_os(name).is_none() {
        let program = std::env::current_exe().map_err(WorkerError::io("this program"))?;
        let status = Command::new(&program).args(std::env::args_os().skip(1)).env(name, value).status();
        let code = status.map_err(WorkerError::io(program))?.code().unwrap_or(1);
        return Ok(ExitCode::from(code as u8));
    }
    measure_here(args)
}

fn measure_here(args: &BenchArgs) -> Result<ExitCode, WorkerError> {
    let is_gguf = args.model.ends_with(".gguf") || args.model == "smollm2-135m-instruct";
    let quantization = if is_gguf && !args.random_weights { "gguf" } else { "nf4" };
    let mut set = vec![
        format!("model.base={}", args.model),
        format!("model.quantization={quantization}"),
        format!("data.max_seq_len={}", args.length),
        "data.train=none".into(),
        format!("resources.device={}", args.device),
        "training.warmup_ratio=0".into(),
    ];
    set.extend(args.set.iter().cloned());
    let config = Layers { set, ..Layers::default() }.resolve()?;
    let checkpoint = checkpoint(args, &config)?;
    let extent = Extent { length: args.length, steps: args.steps as usize, kernels: args.kernels };
    let before = first_gpu().and_then(|gpu| nvidia::energy(&gpu.id));
    let figures = measure(&config, &checkpoint, extent)?;
    let gpu = (figures.device == "GPU").then(|| Gpu::of(&figures, before)).flatten();
    if args.json {
        println!("{}", json(&figures, gpu.as_ref()));
    } else {
        print(&args.model, &figures, gpu.as_ref());
    }
    Ok(ExitCode::SUCCESS)
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
            joules: nvidia::energy(&gpu.id).zip(before).map(|(after, before)| after - before),
            model_flops_utilization: data_sheet_rate(&gpu.name).map(|rate| figures.operations_per_second / rate),
            name: gpu.name,
            driver: gpu.driver,
        })
    }
}

fn json(figures: &Figures, gpu: Option<&Gpu>) -> String {
    let mut value = serde_json::to_value(figures).unwrap_or_default();
    if let (Some(gpu), Some(object)) = (gpu, value.as_object_mut()) {
        object.insert("gpu".into(), serde_json::to_value(gpu).unwrap_or_default());
    }
    value.to_string()
}

fn print(model: &str, figures: &Figures, gpu: Option<&Gpu>) {
    println!("model         {model}");
    println!("tokens/s      {:.0}", figures.tokens_per_second);
    println!(
        "seconds/step  {:.2} ({} tokens, median of {})",
        figures.seconds_per_step, figures.tokens_per_step, figures.steps
    );
    let Parts { forward, backward, update } = figures.seconds;
    println!("parts         forward {forward:.2} s, backward {backward:.2} s, update {update:.2} s");
    println!("arithmetic    {:.2} TFLOP/s", figures.operations_per_second / 1e12);
    println!("peak memory   {:.0} MB", figures.peak_bytes as f64 / 1e6);
    println!("planned       {:.0} MB without the program itself", figures.planned_bytes as f64 / 1e6);
    let kept: Vec<String> = figures.kept.iter().map(|(keep, blocks)| format!("{keep} of {blocks} blocks")).collect();
    println!("kept          {}", kept.join("; "));
    if let Some(attention) = &figures.attention {
        println!("attention     {attention}");
    }
    println!("first step    {:.2} s after the start of the process", figures.first_step_seconds);
    println!("threads       {}", figures.threads);
    if let Some(gpu) = gpu {
        println!("GPU           {}, driver {}", gpu.name, gpu.driver);
        if let Some(share) = gpu.model_flops_utilization {
            println!("utilization   {:.1} % of the data sheet's rate", 100.0 * share);
        }
        if let Some(joules) = gpu.joules {
            println!("energy        {joules:.0} J from loading to the end");
        }
    }
    for Timing { name, milliseconds, rate, unit } in &figures.kernels {
        println!("{name:<36} {milliseconds:9.3} ms  {:9.2} T{unit}", rate / 1e12);
    }
}

fn checkpoint(args: &BenchArgs, config: &ResolvedConfig) -> Result<Checkpoint, WorkerError> {
    if !args.random_weights {
        let model = models::resolve(config.config().model.base.as_deref().unwrap_or_default(), &Quiet)?;
        return Ok(Checkpoint::open(&models::prepared(&model, &config.config().model, &mut |_, _| {}))?);
    }
    // The beginning of a name is enough: nothing is fetched, so nothing can be taken for something else.
    let known = catalogue();
    let entry = known.iter().find(|entry| entry.name.starts_with(&args.model)).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|entry| entry.name).collect();
        WorkerError::Input(format!("`{}` is no model of the catalogue; there are {}", args.model, names.join(", ")))
    })?;
    Ok(Checkpoint::random(entry.shape.clone(), config.config().training.seed))
}
