//! Measures the training step on a model's real shape: tokens a second, peak memory and where the
//! time goes; and gives logits of a fixed sequence, to compare with those of other programs.

mod kernels;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_config::{DeviceKind, FlashAttention, ModelConfig, ResolvedConfig, TrainingConfig};
use qlora_data::Sample;
use qlora_kernels::backend::on_instructions;
use qlora_kernels::types::forms::Forms;
use qlora_planner::{LowMemory, ModelShape, SavedActivations, estimate};
use serde::{Serialize, Serializer};

use crate::lora::{Gradients, MaskPosition};
use crate::model::Batch;
use crate::optim::{LearningRate, Optimizer};
use crate::process_group::Alone;
use crate::runtime::{self, Purpose, Runtime};
use crate::step::Trainer;
use crate::weights::Checkpoint;
use crate::{Error, Result, adapter, device};

use kernels::Case;

pub use kernels::Timing;
pub use qlora_kernels::Instructions;
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
    /// Whether a step ran before those that are measured.
    pub warmed_up: bool,
    /// Blocks of the model that is measured.
    pub layers: usize,
    /// Of the process; on a GPU of its tensors.
    pub peak_bytes: u64,
    /// What the planner says of the same, without program, libraries and device context.
    pub planned_bytes: u64,
    /// Blocks by what is kept of them.
    pub saved: BTreeMap<SavedActivations, usize>,
    /// What is done without to save memory.
    pub low_memory: LowMemory,
    /// Blocks whose frozen weights are held in bf16.
    pub dequantized: usize,
    /// Kernel files that `QLORA_KERNELS` puts in place of the program's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced_kernels: Vec<&'static str>,
    /// What a GPU computes attention with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// What computes each operation.
    #[serde(serialize_with = "by_operation")]
    pub operations: Forms,
    /// Floating-point operations of the model a second, those that are done again not counted.
    pub operations_per_second: f64,
    /// What the instructions of a CPU's products reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<Peak>,
    /// None after a single step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Parts>,
    /// Start of the process to the end of the first step; 0 where the system does not tell.
    pub first_step_seconds: f64,
    pub threads: usize,
    /// Of the last step.
    pub loss: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Timing>,
}

/// The table of forms as a map from operations.
fn by_operation<S: Serializer>(
    forms: &Forms,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(
        forms
            .iter()
            .map(|(operation, form)| (operation.name(), form.to_string())),
    )
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
    pub steps: Steps,
    /// Time every operation of a step as well.
    pub kernels: bool,
    /// What a CPU makes products in bf16 with, instead of the best that it has.
    pub instructions: Option<Instructions>,
}

/// Which steps are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// The first one and no other, for steps that take minutes: what is made ready once counts with
    /// it.
    Once,
    /// As many, after one that does not count; one more is measured in parts.
    Warm(usize),
}

impl Steps {
    fn counted(self) -> usize {
        match self {
            Self::Once => 1,
            Self::Warm(steps) => steps,
        }
    }
}

/// What the steps themselves show.
struct Stepped {
    /// Of one step.
    median: f64,
    tokens: usize,
    loss: f64,
    first_step_seconds: f64,
    peak_bytes: u64,
    parts: Option<Parts>,
    /// Seconds of a measured step, and floating-point operations a second that the instructions of
    /// products reached beside it.
    peaks: Vec<(f64, f64)>,
}

/// What the instructions of products reach when everything lies in registers, measured before and
/// after every step: other programs and the clock of the CPU move both.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peak {
    /// Median.
    pub operations_per_second: f64,
    /// What a step reaches of it, its repeated operations not counted: median.
    pub share: f64,
}

impl Stepped {
    /// None where it is not measured; `operations` are those of a step.
    fn peak_of(&self, operations: f64) -> Option<Peak> {
        let rates = self.peaks.iter().map(|&(_, rate)| rate);
        let shares = self.peaks.iter();
        let shares = shares.map(|(seconds, rate)| operations / seconds / rate);
        Some(Peak {
            operations_per_second: median(rates.collect())?,
            share: median(shares.collect())?,
        })
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Refuses adapters on layers that the model does not have.
fn refuse_lacking(shape: &ModelShape, config: &TrainingConfig) -> Result<()> {
    match shape.lacking(&config.lora) {
        None => Ok(()),
        Some(module) => Err(Error::Config {
            key: "lora.target_modules",
            fault: format!("has {module}, which the model does not have"),
            help: "write all-linear, or the names of the model's own layers",
        }),
    }
}

/// Measures training steps of random rows.
pub fn measure(
    config: &ResolvedConfig,
    checkpoint: &Checkpoint,
    extent: Extent,
) -> Result<Figures> {
    let (c, length, shape) = (config.config(), extent.length, &checkpoint.files.shape);
    let kind = match c.resources.device {
        DeviceKind::Any => DeviceKind::Cpu,
        kind => kind,
    };
    refuse_lacking(shape, c)?;
    let purpose = Purpose::Training(c);
    let runtime = match extent.instructions {
        Some(instructions) => Runtime::with(on_instructions(instructions)?, shape, purpose)?,
        None => Runtime::open(kind, shape, purpose, length)?,
    };
    let (device, backend, policy) = (runtime.device(), &runtime.backend, &runtime.policy);
    let stepped = step(c, checkpoint, extent, &runtime)?;
    let plan = estimate(shape, c, device::kind(device), policy);
    let tokens_per_second = stepped.tokens as f64 / stepped.median;
    let operations = operations_per_token(shape, c, length) * stepped.tokens as f64;
    // The operations have the memory of the model, which is gone.
    let tokens = stepped.tokens;
    let case = Case {
        shape,
        config: c,
        policy,
        device,
        tokens,
        length,
        backend,
    };
    let kernels = if extent.kernels {
        kernels::time(case)?
    } else {
        Vec::new()
    };
    Ok(Figures {
        device: if device.is_cpu() { "CPU" } else { "GPU" },
        tokens_per_second,
        seconds_per_step: stepped.median,
        tokens_per_step: tokens,
        steps: extent.steps.counted(),
        warmed_up: extent.steps != Steps::Once,
        layers: shape.layers,
        peak_bytes: stepped.peak_bytes,
        planned_bytes: plan.total() - plan.overhead,
        saved: SavedActivations::counted(&policy.saved),
        low_memory: policy.low_memory,
        dequantized: policy.dequantized,
        operations_per_second: operations / stepped.median,
        peak: stepped.peak_of(operations),
        replaced_kernels: backend.replaced_kernels(),
        attention: backend.attention(),
        operations: backend.forms(),
        seconds: stepped.parts,
        first_step_seconds: stepped.first_step_seconds,
        threads: rayon::current_num_threads(),
        loss: stepped.loss,
        kernels,
    })
}

/// Loads the model and takes the steps.
fn step(
    c: &TrainingConfig,
    checkpoint: &Checkpoint,
    extent: Extent,
    runtime: &Runtime<'_>,
) -> Result<Stepped> {
    let (length, steps) = (extent.length, extent.steps.counted());
    let decoder = runtime.load(checkpoint, length, |_| {})?;
    let adapters = decoder.adapters(&c.lora, c.training.seed)?;
    let optimizer = Optimizer::new(&adapters, c.training.optimizer)?;
    let learning_rate = LearningRate::new(&c.training, steps as u64 + 2);
    let saved = runtime.policy.saved.clone();
    let mut trainer = Trainer {
        decoder: &decoder,
        adapters,
        optimizer,
        training: &c.training,
        learning_rate,
        saved,
    };
    let sample = random_sample(length, decoder.shape.vocabulary);
    let batch = [Batch::pack(std::iter::repeat_n(
        &sample,
        c.training.micro_batch_size,
    ))];
    runtime.backend.forget_peak()?;
    let (mut seconds, mut loss, mut first_step_seconds) = (Vec::with_capacity(steps + 1), 0.0, 0.0);
    let before = usize::from(extent.steps != Steps::Once);
    let rate = || runtime.backend.peak_operations_per_second();
    let (mut peaks, mut earlier) = (Vec::new(), None);
    for step in 0..before + steps {
        let start = Instant::now();
        loss = trainer.step(step as u64, &batch, &mut Alone)?.loss;
        let taken = start.elapsed().as_secs_f64();
        if step == 0 {
            first_step_seconds = process_seconds();
        }
        let later = rate();
        if step >= before {
            seconds.push(taken);
            let around = later.map(|later| (later + earlier.unwrap_or(later)) / 2.0);
            peaks.extend(around.map(|rate| (taken, rate)));
        }
        earlier = later;
    }
    let peak_bytes = runtime.backend.peak_bytes()?.unwrap_or_else(peak_bytes);
    let parts = (before > 0)
        .then(|| parts(&trainer, &batch[0], steps as u64 + 1))
        .transpose()?;
    Ok(Stepped {
        median: median(seconds).unwrap_or_default(),
        tokens: batch[0].tokens(),
        loss,
        first_step_seconds,
        peak_bytes,
        parts,
        peaks,
    })
}

fn parts(trainer: &Trainer<'_>, batch: &Batch, step: u64) -> Result<Parts> {
    let (decoder, mut times) = (trainer.decoder, vec![Instant::now()]);
    let mut mark = || -> Result<()> {
        decoder.device.synchronize()?;
        times.push(Instant::now());
        Ok(())
    };
    let masks = MaskPosition {
        step,
        first_token: 0,
    };
    let mut gradients = Gradients::none(&trainer.adapters);
    let passed = decoder.forward(
        batch,
        &trainer.adapters,
        masks,
        trainer.training.neftune_alpha,
        &trainer.saved,
    )?;
    mark()?;
    decoder.backward(batch, &trainer.adapters, masks, passed, 1.0, &mut gradients)?;
    mark()?;
    let backend = &*decoder.backend;
    let norm = gradients.norm(backend)?;
    trainer.optimizer.updated(
        backend,
        &trainer.adapters,
        &gradients,
        &norm,
        1e-4,
        trainer.training,
    )?;
    mark()?;
    let between = |i: usize| (times[i + 1] - times[i]).as_secs_f64();
    Ok(Parts {
        forward: between(0),
        backward: between(1),
        update: between(2),
    })
}

/// What [`logits`] finds.
pub struct Logits {
    /// Ids [T] of a fixed sequence.
    pub ids: Tensor,
    /// Logits [T, V].
    pub logits: Tensor,
    /// What a person should hear of the model.
    pub notes: Vec<String>,
}

/// Logits of a fixed sequence of `model` with the adapter in `folder`; on the CPU in `f32`.
pub fn logits(model: &Path, config: &ModelConfig, folder: Option<&Path>) -> Result<Logits> {
    let checkpoint = Checkpoint::open(model)?;
    let shape = &checkpoint.files.shape;
    let length = LOGITS_LENGTH.min(shape.max_positions);
    let purpose = Purpose::Inference {
        model: config,
        attention: FlashAttention::Auto,
    };
    let decoder = Runtime::open(DeviceKind::Cpu, shape, purpose, length)?.load(
        &checkpoint,
        length,
        |_| {},
    )?;
    let adapters = runtime::adapters(folder, &decoder)?;
    let sample = random_sample(length, decoder.shape.vocabulary);
    let batch = Batch::pack([&sample]);
    let logits = decoder.logits(&batch, &adapters)?;
    let broken = |row: &Vec<f32>| row.iter().any(|logit| !logit.is_finite());
    if let Some(row) = logits.to_vec2::<f32>()?.iter().position(broken) {
        let origin = decoder.origin(&batch, &adapters)?;
        return Err(Error::Result {
            what: format!("a logit at position {row}"),
            origin,
        });
    }
    let ids = Tensor::new(sample.ids.as_slice(), &Device::Cpu)?.to_dtype(DType::I64)?;
    let mut notes = checkpoint.files.notes.clone();
    if let Some(folder) = folder {
        notes.extend(adapter::notes_of_base(folder, &checkpoint.files)?);
    }
    Ok(Logits { ids, logits, notes })
}

/// Every token is trained on, as in the peers' benchmark.
fn random_sample(length: usize, vocabulary: usize) -> Sample {
    let ids: Vec<u32> = (0..length)
        .map(|i| ((i * 7919 + 13) % vocabulary) as u32)
        .collect();
    let labels = ids.iter().map(|&id| i64::from(id)).collect();
    Sample { ids, labels }
}

/// Seconds since this process began; 0 where the system does not tell.
fn process_seconds() -> f64 {
    /// Clock ticks a second that Linux counts process times in, on every architecture that it runs
    /// on.
    const TICKS: f64 = 100.0;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // The name of the program, in brackets, may hold spaces; the start is the twentieth number
    // after it.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
    let now = read("/proc/uptime")
        .split_whitespace()
        .next()
        .and_then(|text| text.parse::<f64>().ok());
    start
        .zip(now)
        .map_or(0.0, |(start, now)| now - start / TICKS)
}

/// Peak resident bytes of this process; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
