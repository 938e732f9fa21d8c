//! Measures the training step on a model's real shape: tokens a second and peak memory; and gives logits of a fixed
//! sequence, to hold against other programs.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_config::{DeviceKind, ModelConfig, ResolvedConfig};
use qlora_data::Sample;
use serde::Serialize;

use crate::lora::Adapters;
use crate::model::{Batch, Decoder};
use crate::optim::{LearningRate, Optimizer};
use crate::step::Trainer;
use crate::weights::Checkpoint;
use crate::{Result, device};

/// Tokens of the sequence that [`logits`] looks at.
const LOGITS_LENGTH: usize = 48;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub tokens_per_second: f64,
    /// Median over the measured steps.
    pub seconds_per_step: f64,
    pub tokens_per_step: usize,
    pub steps: usize,
    pub peak_bytes: u64,
    /// Start of the process to the end of the first step; 0 where the system does not tell.
    pub first_step_seconds: f64,
    pub threads: usize,
}

/// Runs `steps` training steps of one sequence of `length` tokens each, after one that is not counted.
pub fn measure(config: &ResolvedConfig, checkpoint: &Checkpoint, length: usize, steps: usize) -> Result<Figures> {
    let c = config.config();
    let device =
        device::open(if c.resources.device == DeviceKind::Any { DeviceKind::Cpu } else { c.resources.device })?;
    let decoder = Decoder::load(checkpoint, &c.model, length, &device, |_| {})?;
    let adapters = decoder.adapters(&c.lora, c.training.seed)?;
    let optimizer = Optimizer::new(&adapters, c.training.optimizer)?;
    let learning_rate = LearningRate::new(&c.training, steps as u64 + 1);
    let keeps = device::keeps(&decoder.shape, c, &device)?;
    let mut trainer = Trainer { decoder: &decoder, adapters, optimizer, training: &c.training, learning_rate, keeps };
    let sample = random_sample(length, decoder.shape.vocabulary);
    let batch = [Batch::pack(std::iter::repeat_n(&sample, c.training.micro_batch_size))];
    trainer.step(0, &batch)?;
    let first_step_seconds = process_seconds();
    let mut seconds = Vec::with_capacity(steps);
    for step in 0..steps {
        let start = Instant::now();
        trainer.step(step as u64 + 1, &batch)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = batch[0].tokens();
    Ok(Figures {
        tokens_per_second: tokens as f64 / median,
        seconds_per_step: median,
        tokens_per_step: tokens,
        steps,
        peak_bytes: peak_bytes(),
        first_step_seconds,
        threads: rayon::current_num_threads(),
    })
}

/// Ids [T] of a fixed sequence, and the logits [T, V] of `model` with `adapter`; on the CPU in `f32`.
pub fn logits(model: &Path, config: &ModelConfig, adapter: Option<&Path>) -> Result<(Tensor, Tensor)> {
    let device = Device::Cpu;
    let checkpoint = Checkpoint::open(model)?;
    let decoder = Decoder::load(&checkpoint, config, LOGITS_LENGTH, &device, |_| {})?;
    let adapters = match adapter {
        Some(folder) => crate::adapter::load(folder, &decoder.shape, &decoder.fingerprint, 0, &device)?,
        None => Adapters::without_effect(&decoder.shape, &device)?,
    };
    let sample = random_sample(LOGITS_LENGTH, decoder.shape.vocabulary);
    let logits = decoder.logits(&Batch::pack([&sample]), &adapters)?;
    Ok((Tensor::new(sample.ids.as_slice(), &device)?.to_dtype(DType::I64)?, logits))
}

/// Every token is learnt from, as in the peers' benchmark.
fn random_sample(length: usize, vocabulary: usize) -> Sample {
    let ids: Vec<u32> = (0..length).map(|i| ((i * 7919 + 13) % vocabulary) as u32).collect();
    let labels = ids.iter().map(|&id| i64::from(id)).collect();
    Sample { ids, labels }
}

/// Seconds since this process began; 0 where the system does not tell.
fn process_seconds() -> f64 {
    /// Clock ticks a second that Linux counts process times in, on every architecture that it runs on.
    const TICKS: f64 = 100.0;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // The name of the program, in brackets, may hold spaces; the start is the twentieth number after it.
    let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
    let now = read("/proc/uptime").split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    start.zip(now).map_or(0.0, |(start, now)| now - start / TICKS)
}

/// Peak resident bytes of this process; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
