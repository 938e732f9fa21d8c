//! What sets one decoder apart from another, as data: a family is a row of these, and no code here or
//! in the trainer knows its name.

use qlora_config::TargetModule;
use serde::{Deserialize, Serialize};

/// What sets a decoder apart from Llama's, which is the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecoderForm {
    /// Queries, keys and values are one matrix, and gate and up are one.
    pub fused: bool,
    /// Biases of queries, keys and values; of the output of attention; of the feed-forward layer.
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// Norms over each head of queries and keys, before their rotation.
    pub head_norms: bool,
    /// Norms after attention and after the feed-forward layer as well.
    pub norms_after: bool,
    /// The factor of a norm is 1 + its weight.
    pub unit_offset: bool,
    pub activation: Activation,
    pub embedding_scale: Option<EmbeddingScale>,
    /// What the outputs of attention and of the feed-forward layer are multiplied with.
    pub residual_scale: Option<f64>,
    /// What scores are multiplied with; none is 1 / sqrt(E).
    pub score_scale: Option<f64>,
    /// Soft caps on scores and on logits: x becomes cap * tanh(x / cap).
    pub score_cap: Option<f64>,
    pub logit_cap: Option<f64>,
    /// What logits are multiplied with.
    pub logit_scale: Option<f64>,
    /// Elements of a head that are rotated, the first; none is all of them.
    pub rotary_dim: Option<usize>,
    /// The base of the rotary embedding of layers with [`LayerRope::Local`].
    pub local_rope_theta: Option<f64>,
    /// The attention of each block; none where all blocks are alike.
    pub layers: Vec<LayerForm>,
}

impl DecoderForm {
    /// Whether `module` has a bias.
    pub fn has_bias(&self, module: TargetModule) -> bool {
        match module {
            TargetModule::OProj => self.o_bias,
            module if module.is_attention() => self.qkv_bias,
            _ => self.mlp_bias,
        }
    }
}

/// The function of the gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    #[default]
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// What rows of the embedding are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingScale {
    /// sqrt(D), rounded to the element type of activations.
    RootOfHidden,
    Factor(f64),
}

/// The attention of one block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerForm {
    /// Tokens that a token sees, itself included.
    pub window: Option<usize>,
    pub rope: LayerRope,
}

/// The rotary embedding of one block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerRope {
    /// The model's.
    #[default]
    Global,
    /// That of [`DecoderForm::local_rope_theta`], not scaled.
    Local,
    /// None: a token does not know its position.
    Absent,
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
    /// All of them by one factor.
    Linear { factor: f64 },
    /// YaRN (Peng et al., 2023).
    Yarn {
        factor: f64,
        original_positions: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Bounds of the ramp are whole numbers.
        truncate: bool,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al., 2024): one divisor a frequency, those of `short` up to
    /// `original_positions` and those of `long` beyond.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        original_positions: usize,
        attention_factor: f64,
    },
    /// One divisor a frequency, as GGUF files store it.
    Divisors(Vec<f32>),
}
