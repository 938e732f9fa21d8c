//! Whole training runs of PEFT and bitsandbytes, replayed from their first adapter over their batches.
//!
//! `tests/golden/loss_curve` holds a small model and two recordings of one run, one computed in fp32 and one in bf16;
//! its README says how they are made. `QLORA_LOSS_CURVE` names another folder of that layout and `QLORA_TEST_DEVICE`
//! the device (`cpu` or `cuda`) that replays it. Every replay prints its differences as one line of JSON.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_config::{DeviceKind, Layers, LoraConfig, ResolvedConfig};
use qlora_data::Sample;
use qlora_trainer::group::Alone;
use qlora_trainer::lora::Adapters;
use qlora_trainer::model::{Batch, Decoder};
use qlora_trainer::optim::{LearningRate, Optimizer};
use qlora_trainer::step::Trainer;
use qlora_trainer::weights::Checkpoint;
use qlora_trainer::{adapter, device};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Steps at the end of a run whose mean loss is compared.
const TAIL: usize = 20;

/// The part of `run.json` that a replay follows.
#[derive(Deserialize)]
struct Recipe {
    dtype: String,
    model_sha256: String,
    steps: u64,
    batch: usize,
    seq: usize,
    rank: usize,
    alpha: f64,
    dropout: f64,
    targets: Vec<String>,
    clip_norm: f64,
    quantization: String,
    optimizer: AdamW,
}

#[derive(Deserialize)]
struct AdamW {
    name: String,
    schedule: String,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

/// Loss before each step's update, and the gradient norm before clipping.
#[derive(Deserialize)]
struct Curve {
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

/// One run of the peer, and the folder that it wrote.
struct Recording {
    folder: PathBuf,
    recipe: Recipe,
    curve: Curve,
}

/// Factors on a recipe, to see that a wrong one is noticed.
#[derive(Clone, Copy)]
struct Detuning {
    learning_rate: f64,
    alpha: f64,
}

const AS_RECORDED: Detuning = Detuning { learning_rate: 1.0, alpha: 1.0 };

/// Differences of two series, or limits on them.
#[derive(Clone, Copy, Serialize)]
struct Difference {
    largest: f64,
    mean: f64,
}

/// Differences of two curves, or limits on them; those of gradient norms are relative, and so is that of the mean loss
/// of the last [`TAIL`] steps.
#[derive(Clone, Copy, Serialize)]
struct Differences {
    loss: Difference,
    grad_norm: Difference,
    tail: f64,
}

/// What sums in another order do in f32, with a margin: 60 and 200 stable steps on models of the fixture's size differ
/// by up to 5e-6 in loss and 2e-5 in gradient norm. A learning rate too high for a stable run magnifies rounding beyond
/// these limits.
const ROUNDING_OF_F32: Differences = Differences {
    loss: Difference { largest: 2e-5, mean: 5e-6 },
    grad_norm: Difference { largest: 1e-4, mean: 2e-5 },
    tail: 2e-6,
};

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/loss_curve")
}

fn test_device() -> DeviceKind {
    match std::env::var("QLORA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => DeviceKind::Cpu,
        Ok("cuda") => DeviceKind::Cuda,
        Ok(other) => panic!("QLORA_TEST_DEVICE is {other}, which is neither cpu nor cuda"),
    }
}

/// What `device` replays: the folder that the environment names is for the device that it names.
fn folder(device: DeviceKind) -> PathBuf {
    let named = std::env::var_os("QLORA_LOSS_CURVE").filter(|_| device == test_device());
    named.map_or_else(fixture, PathBuf::from)
}

fn json_file<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Recording {
    /// Reads the run in `dtype`, and checks that its recipe is one that can be followed.
    fn open(folder: &Path, dtype: &str) -> Self {
        let folder = folder.join(dtype);
        let (recipe, curve): (Recipe, Curve) =
            (json_file(&folder.join("run.json")), json_file(&folder.join("losses.json")));
        assert_eq!((recipe.dtype.as_str(), recipe.dropout), (dtype, 0.0));
        assert_eq!((recipe.optimizer.name.as_str(), recipe.optimizer.schedule.as_str()), ("AdamW", "constant"));
        assert!(recipe.quantization.starts_with("NF4, block 64, double quantization"), "{}", recipe.quantization);
        assert_eq!([curve.loss.len(), curve.grad_norm.len()], [recipe.steps as usize; 2]);
        let (first, last) = (curve.loss[0], mean(tail(&curve.loss)));
        assert!(last < 0.95 * first, "the recorded loss hardly falls: {first} to {last}");
        Self { folder, recipe, curve }
    }

    fn model(&self) -> PathBuf {
        self.folder.join("../model")
    }

    fn config(&self, device: DeviceKind, compute: &str, off: Detuning) -> ResolvedConfig {
        let (recipe, adam) = (&self.recipe, &self.recipe.optimizer);
        let set = vec![
            "model.base=recorded".into(),
            "data.train=recorded.jsonl".into(),
            format!("data.max_seq_len={}", recipe.seq),
            format!("resources.device={device}"),
            format!("model.compute={compute}"),
            "model.quantization=nf4".into(),
            "model.block_size=64".into(),
            "model.double_quant=true".into(),
            format!("lora.r={}", recipe.rank),
            format!("lora.alpha={}", recipe.alpha * off.alpha),
            "lora.dropout=0".into(),
            format!("lora.target_modules=[{}]", recipe.targets.join(", ")),
            format!("training.max_steps={}", recipe.steps),
            format!("training.micro_batch_size={}", recipe.batch),
            "training.gradient_accumulation=1".into(),
            format!("training.learning_rate={}", adam.lr * off.learning_rate),
            "training.schedule=constant".into(),
            "training.warmup_steps=0".into(),
            "training.optimizer=adamw".into(),
            format!("training.adam_beta1={}", adam.betas[0]),
            format!("training.adam_beta2={}", adam.betas[1]),
            format!("training.adam_epsilon={}", adam.eps),
            format!("training.weight_decay={}", adam.weight_decay),
            format!("training.max_grad_norm={}", recipe.clip_norm),
        ];
        Layers { set, ..Layers::default() }.resolve().expect("a valid configuration")
    }

    /// One batch per step; every token but the first of a row is trained on.
    fn batches(&self) -> Vec<Batch> {
        let tensors = candle_core::safetensors::load(self.folder.join("batches.safetensors"), &Device::Cpu);
        let ids = &tensors.expect("batches")["input_ids"];
        let Recipe { steps, batch, seq, .. } = self.recipe;
        assert_eq!(ids.dims(), [steps as usize, batch, seq]);
        let rows = |step: Tensor| step.to_dtype(DType::I64).and_then(|t| t.to_vec2::<i64>()).expect("token ids");
        let sample = |labels: Vec<i64>| Sample { ids: labels.iter().map(|&id| id as u32).collect(), labels };
        let pack = |step| {
            let samples: Vec<_> = rows(ids.get(step).expect("a step")).into_iter().map(sample).collect();
            Batch::pack(&samples)
        };
        (0..steps as usize).map(pack).collect()
    }

    /// The adapter that the run began with, its scaling as `lora` has it.
    fn first_adapter(&self, decoder: &Decoder, lora: &LoraConfig) -> Adapters {
        let folder = self.folder.join("adapter_init");
        let loaded = adapter::load(&folder, &decoder.shape, &decoder.fingerprint, 1, &decoder.device);
        let loaded = loaded.expect("PEFT's adapter");
        assert_eq!((loaded.config().r, loaded.config().alpha), (self.recipe.rank, self.recipe.alpha));
        let adapters = Adapters::from_factors(lora, &decoder.shape, 1, loaded.factors);
        assert_eq!(adapters.sites, loaded.sites);
        adapters
    }

    fn check_model(&self) {
        let bytes = std::fs::read(self.model().join("model.safetensors")).expect("the model's weights");
        let found = hex::encode(Sha256::digest(bytes));
        assert_eq!(found, self.recipe.model_sha256, "{} is not the model of the recording", self.model().display());
    }

    /// Trains as the recording was trained, the way that a job does on `kind`.
    ///
    /// The second result is what a GPU computes attention with.
    fn replay(&self, kind: DeviceKind, compute: &str, off: Detuning) -> (Curve, Option<String>) {
        self.check_model();
        let resolved = self.config(kind, compute, off);
        let config = resolved.config();
        let checkpoint = Checkpoint::open(&self.model()).expect("a checkpoint");
        let (shape, length) = (&checkpoint.files.shape, self.recipe.seq);
        let device = device::open(kind).expect("a device");
        let attention = device::choose_attention(shape, config.training.flash_attention, length, &device);
        let policy = device::memory_policy(shape, config, &device).expect("a memory policy");
        let decoder = Decoder::load(&checkpoint, &config.model, length, &policy, &device, |_| {});
        let decoder = decoder.expect("a model");
        let adapters = self.first_adapter(&decoder, &config.lora);
        let training = &config.training;
        let optimizer = Optimizer::new(&adapters, training.optimizer).expect("an optimizer");
        let learning_rate = LearningRate::new(training, self.recipe.steps);
        let saved = policy.saved;
        let mut trainer = Trainer { decoder: &decoder, adapters, optimizer, training, learning_rate, saved };
        let mut curve = Curve { loss: Vec::new(), grad_norm: Vec::new() };
        for (step, batch) in (0..).zip(self.batches()) {
            let outcome = trainer.step(step, &[batch], &mut Alone).expect("a step");
            curve.loss.push(outcome.loss);
            curve.grad_norm.push(outcome.grad_norm);
        }
        (curve, attention.expect("attention"))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn tail(values: &[f64]) -> &[f64] {
    &values[values.len().saturating_sub(TAIL)..]
}

/// The size of a difference; that of no number is infinite, so that no limit allows it.
fn size(difference: f64) -> f64 {
    if difference.is_nan() { f64::INFINITY } else { difference.abs() }
}

impl Difference {
    fn of(differences: impl Iterator<Item = f64>) -> Self {
        let all: Vec<f64> = differences.map(size).collect();
        Self { largest: all.iter().copied().fold(0.0, f64::max), mean: mean(&all) }
    }
}

impl Differences {
    fn between(found: &Curve, wanted: &Curve) -> Self {
        assert_eq!(found.loss.len(), wanted.loss.len());
        let loss = found.loss.iter().zip(&wanted.loss).map(|(a, b)| a - b);
        // Alike in both directions where a norm is a multiple of the other.
        let norm = found.grad_norm.iter().zip(&wanted.grad_norm).map(|(a, b)| (a / b).ln());
        let ends = mean(tail(&found.loss)) / mean(tail(&wanted.loss)) - 1.0;
        Self { loss: Difference::of(loss), grad_norm: Difference::of(norm), tail: size(ends) }
    }

    /// Limits on what a second computation in bf16 may differ from the peer's, where the peer's own rounding made its
    /// bf16 differ by `self` from its fp32.
    ///
    /// Two computations round independently, so their difference is about the square root of two times the rounding
    /// of one. Means over all steps get a factor of 2; a largest value scatters more and gets 3. Replays of nine
    /// recordings on small models used at most 0.6 of these limits.
    fn limits_in_bf16(&self) -> Self {
        let wider = |d: Difference| Difference { largest: 3.0 * d.largest, mean: 2.0 * d.mean };
        Self { loss: wider(self.loss), grad_norm: wider(self.grad_norm), tail: 0.01 }
    }

    /// Each difference that is over its limit, in words.
    fn over(&self, limits: &Self) -> Vec<String> {
        let checks = [
            ("largest difference of losses", self.loss.largest, limits.loss.largest),
            ("mean difference of losses", self.loss.mean, limits.loss.mean),
            ("largest difference of logarithms of gradient norms", self.grad_norm.largest, limits.grad_norm.largest),
            ("mean difference of logarithms of gradient norms", self.grad_norm.mean, limits.grad_norm.mean),
            ("relative difference of the mean loss at the end", self.tail, limits.tail),
        ];
        let over = checks.into_iter().filter(|(_, found, limit)| found > limit);
        over.map(|(what, found, limit)| format!("{what}: {found:.2e}, over {limit:.2e}")).collect()
    }
}

/// Replays `recording` and prints how it compares; what is over `limits` comes back.
fn compare(recording: &Recording, kind: DeviceKind, compute: &str, off: Detuning, limits: &Differences) -> Vec<String> {
    let start = Instant::now();
    let (curve, attention) = recording.replay(kind, compute, off);
    let seconds = start.elapsed().as_secs_f64();
    let found = Differences::between(&curve, &recording.curve);
    let line = json!({
        "test": "loss-curve", "peer": recording.recipe.dtype, "device": kind.to_string(), "compute": compute,
        "attention": attention, "learning_rate_factor": off.learning_rate, "alpha_factor": off.alpha,
        "model_sha256": recording.recipe.model_sha256, "steps": curve.loss.len(), "seconds": seconds,
        "loss_first": curve.loss[0], "loss_tail": mean(tail(&curve.loss)),
        "peer_loss_tail": mean(tail(&recording.curve.loss)), "differences": found, "limits": limits,
    });
    println!("{line}");
    found.over(limits)
}

/// Tight limits can hold only where the processor itself computes in f32.
#[test]
fn f32_retraces_the_recorded_curve() {
    let recording = Recording::open(&folder(DeviceKind::Cpu), "fp32");
    let over = compare(&recording, DeviceKind::Cpu, "f32", AS_RECORDED, &ROUNDING_OF_F32);
    assert!(over.is_empty(), "{over:#?}");
}

#[test]
fn bf16_differs_from_the_recorded_curve_by_its_rounding() {
    let folder = folder(test_device());
    let (exact, rounded) = (Recording::open(&folder, "fp32"), Recording::open(&folder, "bf16"));
    let limits = Differences::between(&rounded.curve, &exact.curve).limits_in_bf16();
    let over = compare(&rounded, test_device(), "bf16", AS_RECORDED, &limits);
    assert!(over.is_empty(), "{over:#?}");
}

/// The comparisons can fail: in f32 and within the rounding of bf16 a recipe that is 5 % off does not pass.
#[test]
fn a_recipe_that_is_off_is_noticed() {
    let (exact, rounded) = (Recording::open(&fixture(), "fp32"), Recording::open(&fixture(), "bf16"));
    let limits = Differences::between(&rounded.curve, &exact.curve).limits_in_bf16();
    for off in [Detuning { learning_rate: 1.05, ..AS_RECORDED }, Detuning { alpha: 1.05, ..AS_RECORDED }] {
        let tight = compare(&exact, DeviceKind::Cpu, "f32", off, &ROUNDING_OF_F32);
        assert!(tight.len() > 2, "{tight:?}");
        let noisy = compare(&rounded, DeviceKind::Cpu, "bf16", off, &limits);
        assert!(!noisy.is_empty());
    }
}
