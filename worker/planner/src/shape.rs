//! The sizes of a decoder of the Llama family.

use qlora_config::{LoraConfig, TargetModule, TrainingConfig};
use serde::{Deserialize, Serialize};

/// Everything about a model that its weights do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// D.
    pub hidden: usize,
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// F.
    pub ffn: usize,
    /// V.
    pub vocabulary: usize,
    /// The embedding serves as output layer.
    pub tied_embeddings: bool,
    pub norm_epsilon: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// Tokens that a token sees, itself included.
    pub sliding_window: Option<usize>,
    pub max_positions: usize,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// As Llama 3.1 defines it.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_positions: f64,
    },
    /// One divisor a frequency, as GGUF files store it.
    Divisors(Vec<f32>),
}

impl ModelShape {
    /// (out, in) of a linear layer.
    pub fn projection(&self, module: TargetModule) -> (usize, usize) {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match module {
            TargetModule::QProj => (q, self.hidden),
            TargetModule::KProj | TargetModule::VProj => (kv, self.hidden),
            TargetModule::OProj => (self.hidden, q),
            TargetModule::GateProj | TargetModule::UpProj => (self.ffn, self.hidden),
            TargetModule::DownProj => (self.hidden, self.ffn),
        }
    }

    /// Parameters of one block's linear layers.
    pub fn block_parameters(&self) -> usize {
        TargetModule::ALL
            .iter()
            .map(|&m| self.projection(m))
            .map(|(o, i)| o * i)
            .sum()
    }

    /// Parameters of the embedding and, where it is separate, of the output layer.
    pub fn table_parameters(&self) -> usize {
        self.vocabulary * self.hidden * if self.tied_embeddings { 1 } else { 2 }
    }

    pub fn parameters(&self) -> usize {
        self.layers * (self.block_parameters() + 2 * self.hidden)
            + self.table_parameters()
            + self.hidden
    }

    /// Numbers in the adapters that `lora` asks for.
    pub fn adapter_parameters(&self, lora: &LoraConfig) -> usize {
        let site = |&m: &TargetModule| {
            let (outputs, inputs) = self.projection(m);
            lora.r * (outputs + inputs) + if lora.dora { outputs } else { 0 }
        };
        self.layers * lora.target_modules.iter().map(site).sum::<usize>()
    }
}

/// What is wrong where `config` asks for longer sequences than the model has positions for.
pub fn beyond_positions(shape: &ModelShape, config: &TrainingConfig) -> Option<String> {
    let (asked, known) = (config.data.max_seq_len, shape.max_positions);
    let base = config.model.base.as_deref().unwrap_or_default();
    (asked > known).then(|| {
        format!(
            "`data.max_seq_len` is {asked}, more than the {known} positions that `{base}` knows"
        )
    })
}
