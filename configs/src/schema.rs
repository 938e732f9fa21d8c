//! The shape of a training configuration. Units and meanings stand at each field; defaults in `presets/defaults.yaml`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole training run: what is trained, on what, how, and on which kind of machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// A name for people; the job's number is its identity.
    pub name: Option<String>,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub lora: LoraConfig,
    pub training: TrainingSection,
    pub resources: ResourceConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A catalogue name, a hub id `owner/name`, or a folder or `.gguf` file on the worker.
    pub base: Option<String>,
    pub quantization: Quantization,
    /// Quantize the NF4 scales themselves to 8 bits.
    pub double_quant: bool,
    /// Weights that share one NF4 scale.
    pub block_size: usize,
    pub compute: Compute,
}

impl ModelConfig {
    /// No model of its own, held as bitsandbytes and published results have it.
    pub fn held_as(quantization: Quantization, compute: Compute) -> Self {
        Self { base: None, quantization, double_quant: true, block_size: 64, compute }
    }
}

/// In what products with frozen weights are computed; sums are always in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// bf16 on a GPU and on a processor with instructions for it, f32 elsewhere.
    Auto,
    Bf16,
    /// f32 on a processor, where runs are to be held against other programs.
    F32,
}

/// How the frozen weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// What the file is: the blocks of a GGUF file, NF4 for any other.
    Auto,
    /// 4-bit NormalFloat, as bitsandbytes has it.
    Nf4,
    /// The quantized blocks of a GGUF file, as they are.
    Gguf,
    /// The 16- or 32-bit weights of the checkpoint.
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// JSONL file of conversations to learn from; relative paths start at the config file.
    pub train: Option<String>,
    /// JSONL file of held-out conversations.
    pub eval: Option<String>,
    /// `auto` (the model's own), `chatml-tools`, the name of one of the model's, or Jinja text.
    pub template: String,
    /// The date of today that templates which write one are given, as `2024-07-26`: in training, in evaluation, and
    /// when the adapter is asked.
    #[serde(default = "template_date")]
    pub template_date: String,
    /// Tokens; longer conversations are treated as `too_long` says.
    pub max_seq_len: usize,
    pub too_long: TooLong,
    pub batching: Batching,
}

/// What templates of Llama write where they are given no date; configurations recorded before the key was there have it.
pub const TEMPLATE_DATE: &str = "2024-07-26";

fn template_date() -> String {
    TEMPLATE_DATE.into()
}

/// What configurations have that were recorded before the key was there.
fn checkpoints_to_keep() -> u32 {
    3
}

/// Which conversations share a forward pass; attention never crosses from one into another, and none is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// `training.micro_batch_size` conversations, drawn at random.
    Shuffled,
    /// `training.micro_batch_size` conversations of similar length.
    Grouped,
    /// As many as fit into `training.micro_batch_size` times `data.max_seq_len` tokens.
    Packed,
}

/// What happens to a conversation of more than `max_seq_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out, counted and reported.
    Skip,
    /// Its end is cut off.
    Truncate,
    /// The run is refused.
    Error,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by `alpha / r`, or by `alpha / sqrt(r)` with `rslora`.
    pub alpha: f64,
    /// Rank-stabilised scaling (Kalajdzievski, 2023).
    pub rslora: bool,
    /// Train the magnitudes of the merged weight's rows too (DoRA, Liu et al., 2024).
    pub dora: bool,
    /// The learning rate of B over that of A (LoRA+, Hayou et al., 2024); 1 trains both alike.
    pub loraplus_ratio: f64,
    /// Probability with which an input element of an adapter is dropped.
    pub dropout: f64,
    #[serde(deserialize_with = "target_modules")]
    pub target_modules: Vec<TargetModule>,
}

impl LoraConfig {
    /// What the low-rank product is multiplied with.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// A linear layer of a decoder block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetModule {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl TargetModule {
    /// All of them, in the order of the block's forward pass.
    pub const ALL: [TargetModule; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The layer's name in a Hugging Face checkpoint, without its parent module.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

/// A list of modules, or `all-linear` for all of them.
fn target_modules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TargetModule>, D::Error> {
    struct Modules;

    impl<'de> Visitor<'de> for Modules {
        type Value = Vec<TargetModule>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of modules, or all-linear")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            match word {
                "all-linear" => Ok(TargetModule::ALL.to_vec()),
                other => Err(E::unknown_variant(other, &["all-linear", "a list such as [q_proj, v_proj]"])),
            }
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| list.next_element().transpose()).collect()
        }
    }

    deserializer.deserialize_any(Modules)
}

impl fmt::Display for TargetModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSection {
    /// Passes over the training rows, where `max_steps` does not say how long to train.
    pub epochs: f64,
    /// Optimizer steps; overrides `epochs`.
    pub max_steps: Option<u64>,
    /// Conversations in one forward pass.
    pub micro_batch_size: usize,
    /// Forward passes in one optimizer step.
    pub gradient_accumulation: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Share of the steps in which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Steps in which it rises; overrides `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Share of the steps, at the end, in which `schedule: wsd` lets the rate fall.
    pub decay_ratio: f64,
    /// Share of the peak rate below which `cosine`, `linear` and `wsd` do not fall.
    pub min_rate_ratio: f64,
    pub weight_decay: f64,
    pub optimizer: OptimizerKind,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    pub gradient_checkpointing: Checkpointing,
    /// Inputs of blocks are offloaded to host memory where a GPU has no room for them.
    pub offload: bool,
    pub flash_attention: FlashAttention,
    pub seed: u64,
    /// Steps between evaluations; 0 means only before the first step and after the last.
    pub eval_every: u64,
    /// Held-out rows to evaluate; all when absent.
    pub eval_rows: Option<usize>,
    /// The adapter with the lowest held-out loss is what the run gives, not the last one.
    pub keep_best: bool,
    /// Evaluations in a row without a lower held-out loss after which the run ends; 0 means never.
    pub early_stopping: u64,
    /// Strength of the noise on embeddings while training (NEFTune, Jain et al., 2023); 0 turns it off.
    pub neftune_alpha: f64,
    /// Steps between checkpoints; 0 means only after the last.
    pub checkpoint_every: u64,
    /// Checkpoints that the coordinator keeps of a job, the newest ones; 0 keeps all.
    #[serde(default = "checkpoints_to_keep")]
    pub checkpoints_to_keep: u32,
    /// Non-finite steps in a row after which the run stops.
    pub max_skipped_steps: u64,
}

/// The rule of an update, and how its state is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW, its moments in `f32`: eight bytes a trained number.
    Adamw,
    /// AdamW, its moments in 8 bits as in bitsandbytes: two bytes a trained number.
    Adamw8bit,
}

/// How the learning rate changes over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Cosine,
    Linear,
    Constant,
    /// Warm-up, then constant, then a linear fall in the last steps.
    Wsd,
}

/// What is computed again in the backward pass instead of being kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// On a GPU of each block as little as its memory allows; on a processor as with `On`.
    Auto,
    /// All of each block but its input.
    On,
    /// Nothing.
    Off,
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = Checkpointing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, true or false")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Checkpointing, E> {
                Ok(if on { Checkpointing::On } else { Checkpointing::Off })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Checkpointing, E> {
                match word {
                    "auto" => Ok(Checkpointing::Auto),
                    other => Err(E::unknown_variant(other, &["auto", "true", "false"])),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}

/// Whether attention runs without forming its matrix of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// On a GPU whichever is faster there, our kernels or cuDNN.
    Auto,
    /// Refuse a worker that has none; else as `auto`.
    Required,
    /// On a GPU our kernels, with which a repeated step is bit-identical.
    Repeatable,
    /// On a GPU cuDNN; a run that cannot have it fails.
    Cudnn,
    Off,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    pub device: DeviceKind,
    /// Labels that a worker must carry.
    pub labels: BTreeMap<String, String>,
    /// Share of the device's memory that the run may plan with.
    pub memory_fraction: f64,
    /// Workers that train the job together, each a part of every step's micro-batches; the result is that of one.
    pub workers: usize,
    /// Failed attempts after which the job fails; lost workers do not count.
    pub max_retries: u32,
    /// Minutes after which an attempt is saved and the job cancelled; without end where none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<u64>,
}

/// The kind of device that a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Any,
    Cuda,
    Metal,
    Cpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Cpu => "cpu",
        })
    }
}

/// YAML reads a bare `off` as false, so the truth values are words here too.
impl<'de> Deserialize<'de> for FlashAttention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = FlashAttention;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, required, repeatable, cudnn or off")
            }

            fn visit_bool<E: de::Error>(self, required: bool) -> Result<FlashAttention, E> {
                Ok(if required { FlashAttention::Required } else { FlashAttention::Off })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<FlashAttention, E> {
                match word {
                    "auto" => Ok(FlashAttention::Auto),
                    "required" => Ok(FlashAttention::Required),
                    "repeatable" => Ok(FlashAttention::Repeatable),
                    "cudnn" => Ok(FlashAttention::Cudnn),
                    "off" => Ok(FlashAttention::Off),
                    other => Err(E::unknown_variant(other, &["auto", "required", "repeatable", "cudnn", "off"])),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}
