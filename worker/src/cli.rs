//! What the worker is told on its command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::models::Rule;

/// Registers this machine with a coordinator, pulls jobs, trains them, reports.
///
/// Without a command it serves until a signal stops it; the commands work alone, most of them without a coordinator.
/// Exit codes: 0 done, 1 failed, 2 usage, 3 bad model, data or configuration, 4 unreachable, 5 refused.
#[derive(Debug, Parser)]
#[command(name = "qlora-worker", version, about, long_about, verbatim_doc_comment, after_help = SERVE)]
pub struct Cli {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Print JSON: one object, or one a line where there are many; errors too.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const SERVE: &str = "Examples:
  qlora-worker
  qlora-worker --coordinator 10.0.0.5:7070 --token-file token --name gpu-1
  qlora-worker doctor";
const DOCTOR: &str = "Example:
  qlora-worker doctor --coordinator 10.0.0.5:7070";
const BENCH: &str = "Example:
  qlora-worker bench --model llama-3.1-8b-instruct --random-weights --device cuda";
const LOGITS: &str = "Example:
  qlora-worker logits --model models/tiny --out logits.safetensors";
const MERGE: &str = "Example:
  qlora-worker merge --model smollm2-135m-instruct --adapter adapter-1 --out merged.gguf";
const CONVERT: &str = "Example:
  qlora-worker convert --model models/tiny --out tiny.gguf --type q8_0";
const SCORE: &str = "Example:
  qlora-worker score --model smollm2-135m-instruct --adapter adapter-1 --data eval.jsonl --rows 100";
const GENERATE: &str = "Example:
  qlora-worker generate --model smollm2-135m-instruct --adapter adapter-1 --prompt Hello";
const FETCH: &str = "Example:
  qlora-worker model fetch smollm2-135m-instruct";
const LIST: &str = "Example:
  qlora-worker model list --json";
const TEXT: &str = "Example:
  qlora-worker model text smollm2-135m-instruct --out text";
const SHAPE: &str = "Example:
  qlora-worker model shape models/tiny";

const CONNECTION: &str = "Connection";
const SERVING: &str = "Serving";
const SEVERAL: &str = "Training on several workers";

/// Where the coordinator of this machine listens.
const USUAL_COORDINATOR: &str = "127.0.0.1:7070";

#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Address of the coordinator, such as 127.0.0.1:7070.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_URL", default_value = USUAL_COORDINATOR, value_name = "ADDR")]
    pub coordinator: String,

    /// File whose first line is the coordinator's token; QLORA_TOKEN may hold the token itself. Not needed where the same
    /// user runs the coordinator on this machine.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Name under which this machine appears [default: the host's name]
    #[arg(help_heading = SERVING, long, env = "QLORA_WORKER_NAME")]
    pub name: Option<String>,

    /// Folder for downloads and checkpoints [default: ~/.local/share/qlora/worker]
    #[arg(help_heading = SERVING, long, env = "QLORA_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Device to offer; the best there is by default.
    #[arg(help_heading = SERVING, long, value_parser = ["cpu", "cuda", "metal"])]
    pub device: Option<String>,

    /// key=value that jobs may ask for; repeatable.
    #[arg(help_heading = SERVING, long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,

    /// Models that jobs may name beside those of the catalogue: folders of this machine, OWNER/NAME or OWNER/* of the
    /// hub; repeatable, or with commas [default: any where the coordinator listens on this machine's loopback only, else none]
    #[arg(help_heading = SERVING, long, env = "QLORA_ALLOW_MODELS", value_name = "WHAT", value_delimiter = ',')]
    pub allow_models: Vec<Rule>,

    /// Take one job, then exit.
    #[arg(help_heading = SERVING, long)]
    pub once: bool,

    /// Seconds without a word from a training process after which it is taken for hung and replaced; 0 waits for ever
    /// [default: 1800 on a GPU, 0 on a processor, which may be slow and does not hang]
    #[arg(help_heading = SERVING, long, value_name = "SECONDS")]
    pub patience: Option<u64>,

    /// Host under which the workers of a job that trains on several reach this one [default: this machine's addresses]
    #[arg(help_heading = SEVERAL, long, env = "QLORA_PEER_ADDRESS", value_name = "HOST")]
    pub peer_address: Option<String>,

    /// Port on which they reach it, the next ones for further GPUs; 0 is any free one.
    #[arg(help_heading = SEVERAL, long, env = "QLORA_PEER_PORT", default_value_t = 0, value_name = "PORT")]
    pub peer_port: u16,
}

impl AgentArgs {
    /// Whether a person has said where the coordinator is.
    pub fn names_coordinator(&self) -> bool {
        self.coordinator != USUAL_COORDINATOR
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    if key.is_empty() { Err("the key is empty".into()) } else { Ok((key.into(), value.into())) }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains one run in this process; the agent starts this.
    #[command(hide = true)]
    Train {
        #[arg(long)]
        spec: PathBuf,
    },
    /// Checks whether this machine can train and whether the coordinator takes its token, and says what is missing.
    #[command(after_help = DOCTOR)]
    Doctor,
    /// Measures training speed and memory on this machine.
    #[command(after_help = BENCH)]
    Bench(BenchArgs),
    /// Writes the logits of a fixed sequence, for comparing with other programs.
    #[command(after_help = LOGITS)]
    Logits {
        /// Hugging Face folder or .gguf file.
        #[arg(long)]
        model: PathBuf,
        /// Adapter folder.
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// Safetensors file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Merges an adapter into its base model: a folder or .gguf file that needs no adapter.
    #[command(after_help = MERGE)]
    Merge(MergeArgs),
    /// Writes a model or an adapter as another format: .gguf for llama.cpp, or a folder in bitsandbytes' NF4.
    #[command(after_help = CONVERT)]
    Convert(ConvertArgs),
    /// Scores a model on held-out rows: loss, and how many of its own tool calls are right.
    #[command(after_help = SCORE)]
    Score(ScoreArgs),
    /// Answers one message.
    #[command(after_help = GENERATE)]
    Generate(GenerateArgs),
    /// Models on this machine.
    #[command(subcommand)]
    Model(ModelCommand),
}

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
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one, or the name of one of the model's.
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
    /// The base's own weights, or those after NF4 and back, which the adapter was trained on. A .gguf base has only its own.
    #[arg(long, value_enum, default_value_t = MergeBase::Original)]
    pub into: MergeBase,
    /// How a .gguf file holds the matrices that are written anew.
    #[arg(long = "type", value_enum, default_value_t = GgufType::F16)]
    pub element: GgufType,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Catalogue name, Hugging Face folder or .gguf file; with --adapter, the model that it was trained on.
    #[arg(long)]
    pub model: String,
    /// Adapter folder: it alone is written, as .gguf.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// A .gguf file, or a folder for the model with its linear layers in bitsandbytes' NF4; must not exist.
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

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Gets a model of the catalogue or of the hub, checks it, and prints where it lies.
    #[command(after_help = FETCH)]
    Fetch {
        /// Catalogue name, or owner/name of the hub.
        name: String,
    },
    /// Names the models that are known, and those that are here.
    #[command(after_help = LIST)]
    List,
    /// Prints the sizes of a model that is here, from its config.json or its header.
    #[command(after_help = SHAPE)]
    Shape {
        /// Catalogue name, name of the hub, folder or .gguf file.
        name: String,
    },
    /// Writes the tokenizer and the chat template of a model that is here as the files of a Hugging Face folder.
    #[command(after_help = TEXT)]
    Text {
        /// Catalogue name, name of the hub, folder or .gguf file.
        name: String,
        /// Folder for the files.
        #[arg(long)]
        out: PathBuf,
    },
}
