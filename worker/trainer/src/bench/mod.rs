//! Measures the training step on a model's real shape: tokens a second, peak memory and where the time goes; and gives
//! logits of a fixed sequence, to hold against other programs.

mod kernels;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_config::{DeviceKind, ModelConfig, ResolvedConfig};
use qlora_data::Sample;
use qlora_planner::{Arrangement, Keep, Thrift};
use serde::Serialize;

use crate::group::Alone;
use crate::lora::{Adapters, Gradients, MaskPosition};
use crate::model::{Batch, Decoder};
use crate::optim::{LearningRate, Optimizer};
use crate::step::Trainer;
use crate::weights::Checkpoint;
use crate::{Result, device};

pub use kernels::Timing;
pub use work::{data_sheet_rate, operations_per_token};

/// Tokens of the sequence that [`logits`] looks at.
const LOGITS_LENGTH: usize = 48;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub device: &'static str,
    pub tokens_per_second: f64,
    /// Median over the measured steps.
    pub seconds_per_step: f64,
    pub tokens_per_step: usize,
    pub steps: usize,
    /// Of the process; on a GPU of its tensors.
    pub peak_bytes: u64,
    /// What the planner says of the same, without program, libraries and device context.
    pub planned_bytes: u64,
    /// Blocks by what is kept of them.
    pub kept: BTreeMap<Keep, usize>,
    /// What is done without to save memory.
    pub thrift: Thrift,
    /// Blocks whose frozen weights are held in bf16.
    pub written_out: usize,
    /// What a GPU computes attention with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// Floating-point operations of the model a second, those that are done again not counted.
    pub operations_per_second: f64,
    pub seconds: Parts,
    /// Start of the process to the end of the first step; 0 where the system does not tell.
    pub first_step_seconds: f64,
    pub threads: usize,
    /// Of the last step.
    pub loss: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Timing>,
}

/// Seconds of one more step, whose parts are waited for one after the other.
#[derive(Debug, Clone, Serialize)]
pub struct Parts {
    pub forward: f64,
    /// With the loss.
    pub backward: f64,
    pub update: f64,
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Tokens of a sequence.
    pub length: usize,
    /// Steps that count, after one that does not.
    pub steps: usize,
    /// Time every operation of a block as well.
    pub kernels: bool,
}

/// Measures training steps of random rows.
pub fn measure(config: &ResolvedConfig, checkpoint: &Checkpoint, extent: Extent) -> Result<Figures> {
    let (c, length) = (config.config(), extent.length);
    let device =
        device::open(if c.resources.device == DeviceKind::Any { DeviceKind::Cpu } else { c.resources.device })?;
    let attention = device::choose_attention(&checkpoint.files.shape, c.training.flash_attention, length, &device)?;
    let arrangement = device::arrange(&checkpoint.files.shape, c, &device)?;
    let decoder = Decoder::load(checkpoint, &c.model, length, &arrangement, &device, |_| {})?;
    let adapters = decoder.adapters(&c.lora, c.training.seed)?;
    let optimizer = Optimizer::new(&adapters, c.training.optimizer)?;
    let learning_rate = LearningRate::new(&c.training, extent.steps as u64 + 2);
    let keeps = arrangement.keeps.clone();
    let mut trainer = Trainer { decoder: &decoder, adapters, optimizer, training: &c.training, learning_rate, keeps };
    let sample = random_sample(length, decoder.shape.vocabulary);
    let batch = [Batch::pack(std::iter::repeat_n(&sample, c.training.micro_batch_size))];
    device::forget_peak(&device)?;
    trainer.step(0, &batch, &mut Alone)?;
    let first_step_seconds = process_seconds();
    let (mut seconds, mut loss) = (Vec::with_capacity(extent.steps), 0.0);
    for step in 0..extent.steps {
        let start = Instant::now();
        loss = trainer.step(step as u64 + 1, &batch, &mut Alone)?.loss;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = batch[0].tokens();
    let peak_bytes = device::peak(&device)?.unwrap_or_else(peak_bytes);
    let plan = arrangement.plan(&decoder.shape, c, device::kind(&device));
    let seconds = parts(&trainer, &batch[0], extent.steps as u64 + 1)?;
    let tokens_per_second = tokens as f64 / median;
    Ok(Figures {
        device: if device.is_cpu() { "processor" } else { "GPU" },
        tokens_per_second,
        seconds_per_step: median,
        tokens_per_step: tokens,
        steps: extent.steps,
        peak_bytes,
        planned_bytes: plan.total() - plan.overhead,
        kept: Keep::counted(&trainer.keeps),
        thrift: arrangement.thrift,
        written_out: arrangement.written_out,
        attention,
        operations_per_second: operations_per_token(&decoder.shape, c, length) * tokens_per_second,
        seconds,
        first_step_seconds,
        threads: rayon::current_num_threads(),
        loss,
        kernels: if extent.kernels { kernels::time(&decoder.shape, c, &device, (tokens, length))? } else { Vec::new() },
    })
}

fn parts(trainer: &Trainer<'_>, batch: &Batch, step: u64) -> Result<Parts> {
    let (decoder, mut times) = (trainer.decoder, vec![Instant::now()]);
    let mut mark = || -> Result<()> {
        decoder.device.synchronize()?;
        times.push(Instant::now());
        Ok(())
    };
    let masks = MaskPosition { step, first_token: 0 };
    let mut gradients = Gradients::none(&trainer.adapters);
    let passed = decoder.forward(batch, &trainer.adapters, masks, trainer.training, &trainer.keeps)?;
    mark()?;
    decoder.backward(batch, &trainer.adapters, masks, passed, 1.0, &mut gradients)?;
    mark()?;
    let norm = gradients.norm()?;
    trainer.optimizer.updated(&trainer.adapters, &gradients, &norm, 1e-4, trainer.training)?;
    mark()?;
    let between = |i: usize| (times[i + 1] - times[i]).as_secs_f64();
    Ok(Parts { forward: between(0), backward: between(1), update: between(2) })
}

/// Ids [T] of a fixed sequence, and the logits [T, V] of `model` with `adapter`; on the CPU in `f32`.
pub fn logits(model: &Path, config: &ModelConfig, adapter: Option<&Path>) -> Result<(Tensor, Tensor)> {
    let device = Device::Cpu;
    let checkpoint = Checkpoint::open(model)?;
    let decoder = Decoder::load(&checkpoint, config, LOGITS_LENGTH, &Arrangement::default(), &device, |_| {})?;
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
