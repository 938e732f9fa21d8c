//! `qlora-worker bench`: training speed and memory, as a table or as JSON.

use std::process::{Command, ExitCode};

use qlora_config::{Layers, ResolvedConfig};
use qlora_planner::catalogue;
use qlora_trainer::bench::measure;
use qlora_trainer::weights::Checkpoint;

use crate::agent::KEEP_MEMORY;
use crate::cli::BenchArgs;
use crate::error::WorkerError;
use crate::models::{self, Quiet};

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
        "resources.device=cpu".into(),
        "training.warmup_ratio=0".into(),
    ];
    set.extend(args.set.iter().cloned());
    let config = Layers { set, ..Layers::default() }.resolve()?;
    let checkpoint = checkpoint(args, &config)?;
    let figures = measure(&config, &checkpoint, args.length, args.steps)?;
    if args.json {
        println!("{}", serde_json::to_string(&figures).unwrap_or_default());
    } else {
        println!("model         {}", args.model);
        println!("tokens/s      {:.0}", figures.tokens_per_second);
        println!(
            "seconds/step  {:.2} ({} tokens, median of {})",
            figures.seconds_per_step, figures.tokens_per_step, figures.steps
        );
        println!("peak memory   {:.0} MB", figures.peak_bytes as f64 / 1e6);
        println!("first step    {:.2} s after the start of the process", figures.first_step_seconds);
        println!("threads       {}", figures.threads);
    }
    Ok(ExitCode::SUCCESS)
}

fn checkpoint(args: &BenchArgs, config: &ResolvedConfig) -> Result<Checkpoint, WorkerError> {
    if !args.random_weights {
        return Ok(Checkpoint::open(&models::resolve(
            config.config().model.base.as_deref().unwrap_or_default(),
            &Quiet,
        )?)?);
    }
    // The beginning of a name is enough: nothing is fetched, so nothing can be taken for something else.
    let known = catalogue();
    let entry = known.iter().find(|entry| entry.name.starts_with(&args.model)).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|entry| entry.name).collect();
        WorkerError::Input(format!("`{}` is no model of the catalogue; there are {}", args.model, names.join(", ")))
    })?;
    Ok(Checkpoint::random(entry.shape.clone(), config.config().training.seed))
}
