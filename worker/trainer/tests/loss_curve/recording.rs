//! One run of the peer, as its files have it, and how it is trained again.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qlora_config::{DeviceKind, LoraConfig, ResolvedConfig};
use qlora_data::Sample;
use qlora_testkit::resolved;
use qlora_trainer::adapter;
use qlora_trainer::lora::Adapters;
use qlora_trainer::model::{Batch, Decoder};
use qlora_trainer::optim::{LearningRate, Optimizer};
use qlora_trainer::process_group::Alone;
use qlora_trainer::runtime::{Purpose, Runtime};
use qlora_trainer::step::Trainer;
use qlora_trainer::weights::Checkpoint;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::differences::{mean, tail};

/// The part of `run.json` that a replay follows.
#[derive(Deserialize)]
pub struct Recipe {
    pub dtype: String,
    pub model_sha256: String,
    pub steps: u64,
    pub batch: usize,
    pub seq: usize,
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Vec<String>,
    pub clip_norm: f64,
    pub quantization: String,
    pub optimizer: AdamW,
}

#[derive(Deserialize)]
pub struct AdamW {
    pub name: String,
    pub schedule: String,
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

/// Loss before each step's update, and the gradient norm before clipping.
#[derive(Deserialize)]
pub struct Curve {
    pub loss: Vec<f64>,
    pub grad_norm: Vec<f64>,
}

/// One run of the peer, and the folder that it wrote.
pub struct Recording {
    pub folder: PathBuf,
    pub recipe: Recipe,
    pub curve: Curve,
}

/// Factors on a recipe, to see that a wrong one is noticed.
#[derive(Clone, Copy)]
pub struct Detuning {
    pub learning_rate: f64,
    pub alpha: f64,
}

pub const AS_RECORDED: Detuning = Detuning {
    learning_rate: 1.0,
    alpha: 1.0,
};

fn json_file<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Recording {
    /// Reads the run in `dtype`, and checks that its recipe is one that can be followed.
    pub fn open(folder: &Path, dtype: &str) -> Self {
        let folder = folder.join(dtype);
        let (recipe, curve): (Recipe, Curve) = (
            json_file(&folder.join("run.json")),
            json_file(&folder.join("losses.json")),
        );
        assert_eq!((recipe.dtype.as_str(), recipe.dropout), (dtype, 0.0));
        assert_eq!(
            (
                recipe.optimizer.name.as_str(),
                recipe.optimizer.schedule.as_str()
            ),
            ("AdamW", "constant")
        );
        assert!(
            recipe
                .quantization
                .starts_with("NF4, block 64, double quantization"),
            "{}",
            recipe.quantization
        );
        assert_eq!(
            [curve.loss.len(), curve.grad_norm.len()],
            [recipe.steps as usize; 2]
        );
        let (first, last) = (curve.loss[0], mean(tail(&curve.loss)));
        assert!(
            last < 0.95 * first,
            "the recorded loss hardly falls: {first} to {last}"
        );
        Self {
            folder,
            recipe,
            curve,
        }
    }

    fn model(&self) -> PathBuf {
        self.folder.join("../model")
    }

    fn config(&self, device: DeviceKind, compute: &str, off: Detuning) -> ResolvedConfig {
        let (recipe, adam) = (&self.recipe, &self.recipe.optimizer);
        let set: Vec<String> = vec![
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
        resolved(&[], &set)
    }

    /// One batch per step; every token but the first of a row is trained on.
    fn batches(&self) -> Vec<Batch> {
        let tensors =
            candle_core::safetensors::load(self.folder.join("batches.safetensors"), &Device::Cpu);
        let ids = &tensors.expect("batches")["input_ids"];
        let Recipe {
            steps, batch, seq, ..
        } = self.recipe;
        assert_eq!(ids.dims(), [steps as usize, batch, seq]);
        let rows = |step: Tensor| {
            step.to_dtype(DType::I64)
                .and_then(|t| t.to_vec2::<i64>())
                .expect("token ids")
        };
        let sample = |labels: Vec<i64>| Sample {
            ids: labels.iter().map(|&id| id as u32).collect(),
            labels,
        };
        let pack = |step| {
            let samples: Vec<_> = rows(ids.get(step).expect("a step"))
                .into_iter()
                .map(sample)
                .collect();
            Batch::pack(&samples)
        };
        (0..steps as usize).map(pack).collect()
    }

    /// The adapter that the run began with, its scaling as `lora` has it.
    fn first_adapter(&self, decoder: &Decoder, lora: &LoraConfig) -> Adapters {
        let folder = self.folder.join("adapter_init");
        let loaded = adapter::load(
            &folder,
            &decoder.shape,
            &decoder.fingerprint,
            1,
            &decoder.device,
        );
        let loaded = loaded.expect("PEFT's adapter");
        assert_eq!(
            (loaded.config().r, loaded.config().alpha),
            (self.recipe.rank, self.recipe.alpha)
        );
        let adapters = Adapters::from_factors(lora, &decoder.shape, 1, loaded.factors);
        assert_eq!(adapters.sites, loaded.sites);
        adapters
    }

    fn check_model(&self) {
        let bytes =
            std::fs::read(self.model().join("model.safetensors")).expect("the model's weights");
        let found = hex::encode(Sha256::digest(bytes));
        assert_eq!(
            found,
            self.recipe.model_sha256,
            "{} is not the model of the recording",
            self.model().display()
        );
    }

    /// Trains as the recording was trained, the way that a job does on `kind`.
    ///
    /// The second result is what a GPU computes attention with.
    pub fn replay(
        &self,
        kind: DeviceKind,
        compute: &str,
        off: Detuning,
    ) -> (Curve, Option<String>) {
        self.check_model();
        let resolved = self.config(kind, compute, off);
        let config = resolved.config();
        let checkpoint = Checkpoint::open(&self.model()).expect("a checkpoint");
        let (shape, length) = (&checkpoint.files.shape, self.recipe.seq);
        let runtime =
            Runtime::open(kind, shape, Purpose::Training(config), length).expect("a runtime");
        let decoder = runtime.load(&checkpoint, length, |_| {}).expect("a model");
        let adapters = self.first_adapter(&decoder, &config.lora);
        let training = &config.training;
        let optimizer = Optimizer::new(&adapters, training.optimizer).expect("an optimizer");
        let learning_rate = LearningRate::new(training, self.recipe.steps);
        let saved = runtime.policy.saved.clone();
        let mut trainer = Trainer {
            decoder: &decoder,
            adapters,
            optimizer,
            training,
            learning_rate,
            saved,
        };
        let mut curve = Curve {
            loss: Vec::new(),
            grad_norm: Vec::new(),
        };
        for (step, batch) in (0..).zip(self.batches()) {
            let outcome = trainer.step(step, &[batch], &mut Alone).expect("a step");
            curve.loss.push(outcome.loss);
            curve.grad_norm.push(outcome.grad_norm);
        }
        (curve, runtime.backend.attention())
    }
}
