//! What the worker is told on its command line.

mod agent;
mod args;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use agent::AgentArgs;
pub use args::{
    BenchArgs, ConvertArgs, GenerateArgs, GgufType, MergeArgs, MergeBase, ScoreArgs, SubjectArgs,
};

/// Registers this machine with a coordinator, pulls jobs, trains them, reports.
///
/// Without a command it serves until a signal stops it; the commands work alone, most of them
/// without a coordinator. Exit codes: 0 done, 1 failed, 2 usage, 3 bad model, data, configuration
/// or path, 4 unreachable, 5 refused.
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

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains one run in this process; the agent starts this.
    #[command(hide = true)]
    Train {
        #[arg(long)]
        spec: PathBuf,
    },
    /// Checks whether this machine can train and whether the coordinator takes its token, and says
    /// what is missing.
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
    /// Writes a model or an adapter as another format: .gguf for llama.cpp, or a folder in
    /// bitsandbytes' NF4.
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
    /// Writes the tokenizer and the chat template of a model that is here as the files of a Hugging
    /// Face folder.
    #[command(after_help = TEXT)]
    Text {
        /// Catalogue name, name of the hub, folder or .gguf file.
        name: String,
        /// Folder for the files.
        #[arg(long)]
        out: PathBuf,
    },
}
