//! Options of the commands.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Catalogue name, folder or .gguf file.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    pub model: String,
    /// Seeded random weights of the true shape of a catalogue model: nothing is downloaded.
    #[arg(long)]
    pub random_weights: bool,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 512)]
    pub length: usize,
    /// Steps that are measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Measure the first step and no other, without a warm-up: for steps that take minutes.
    #[arg(long, conflicts_with = "steps")]
    pub once: bool,
    /// Measure only the first N blocks of the model; random weights may have more than the model.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub layers: Option<u64>,
    /// Time every operation of a step as well.
    #[arg(long)]
    pub kernels: bool,
    /// Where to measure: cpu, cuda or metal.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// A configuration key, as with qlora-ctl submit; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// A model that answers.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// Catalogue name, Hugging Face folder or .gguf file.
    #[arg(long)]
    pub model: String,
    /// Adapter folder.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one, or the name of
    /// one of the model's.
    #[arg(long, default_value = "auto", value_parser = qlora_config::template)]
    pub template: String,
    /// Tokens of an answer at the most.
    #[arg(long, default_value_t = qlora_trainer::score::ANSWER_TOKENS)]
    pub max_new_tokens: usize,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Held-out rows, in any form that training takes.
    #[arg(long)]
    pub data: PathBuf,
    /// Rows at the most.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    pub rows: usize,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// What the user says.
    #[arg(long)]
    pub prompt: String,
    /// JSON file with a list of tool definitions.
    #[arg(long)]
    pub tools: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Catalogue name, Hugging Face folder of the 16- or 32-bit base model, or .gguf file.
    #[arg(long)]
    pub model: String,
    /// Adapter folder.
    #[arg(long)]
    pub adapter: PathBuf,
    /// Folder or .gguf file to write; must not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// The base's own weights, or those after NF4 and back, which the adapter was trained on. A
    /// .gguf base has only its own.
    #[arg(long, value_enum, default_value_t = MergeBase::Original)]
    pub into: MergeBase,
    /// How a .gguf file holds the matrices that are written anew.
    #[arg(long = "type", value_enum, default_value_t = GgufType::F16)]
    pub element: GgufType,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Catalogue name, Hugging Face folder or .gguf file; with --adapter, the model that it was
    /// trained on.
    #[arg(long)]
    pub model: String,
    /// Adapter folder: it alone is written, as .gguf.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// A .gguf file, or a folder for the model with its linear layers in bitsandbytes' NF4; must
    /// not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// How a .gguf file holds matrices.
    #[arg(long = "type", value_enum, default_value_t = GgufType::F16)]
    pub element: GgufType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    /// 8 bits and a scale for each 32.
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MergeBase {
    Original,
    Dequantised,
}
