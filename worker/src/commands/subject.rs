//! The model that answers, as `score` and `generate` take it.

use std::path::PathBuf;

use clap::Args;
use qlora_client::console;
use qlora_config::{Compute, DeviceKind, FlashAttention, ModelConfig, Quantization};
use qlora_proto::numbers::whole;
use qlora_trainer::score::{Answerer, Subject};

use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::models;

/// A model that answers.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// Catalogue name, Hugging Face folder or .gguf file.
    #[arg(long)]
    model: String,
    /// Adapter folder.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one, or the name of
    /// one of the model's.
    #[arg(long, default_value = "auto", value_parser = qlora_config::template)]
    template: String,
    /// Tokens of an answer at the most.
    #[arg(long, default_value_t = qlora_trainer::score::ANSWER_TOKENS, allow_negative_numbers = true, value_parser = whole::<usize>("a number of tokens", 0..))]
    max_new_tokens: usize,
}

impl SubjectArgs {
    /// The model on the device that `agent` names; what is odd of it goes to stderr.
    pub fn open(&self, agent: &AgentArgs) -> Result<Answerer, WorkerError> {
        let model = models::resolve(&self.model, &models::Quiet)?;
        let config = ModelConfig::held_as(Quantization::Auto, Compute::Auto);
        let answerer = Answerer::open(&Subject {
            model,
            adapter: self.adapter.clone(),
            config: &config,
            template: self.template.clone(),
            max_new_tokens: self.max_new_tokens,
            device: device_kind(agent.device.as_deref()),
            attention: FlashAttention::Auto,
        })?;
        answerer
            .notes
            .iter()
            .for_each(|note| console::note(&format!("warning: {note}")));
        Ok(answerer)
    }
}

fn device_kind(name: Option<&str>) -> DeviceKind {
    match name {
        Some("cpu") => DeviceKind::Cpu,
        Some("cuda") => DeviceKind::Cuda,
        Some("metal") => DeviceKind::Metal,
        _ => DeviceKind::Any,
    }
}
