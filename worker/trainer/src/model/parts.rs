//! The tensors that a decoder is made of: what Hugging Face's files and llama.cpp's call each one,
//! and its sizes.

use qlora_config::TargetModule;
use qlora_planner::{DecoderForm, ModelShape};

use crate::lora::Site;

/// A tensor of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Embedding,
    Norm { layer: usize, place: NormPlace },
    Weight(Site),
    Bias(Site),
    FinalNorm,
    Head,
}

/// Where in a block a norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NormPlace {
    BeforeAttention,
    /// Over each head.
    Query,
    Key,
    AfterAttention,
    BeforeMlp,
    AfterMlp,
}

impl NormPlace {
    /// Those of a block, in the order of its forward pass.
    fn of(form: &DecoderForm) -> Vec<Self> {
        let mut places = vec![Self::BeforeAttention];
        if form.head_norms {
            places.extend([Self::Query, Self::Key]);
        }
        if form.norms_after {
            places.extend([Self::AfterAttention, Self::BeforeMlp, Self::AfterMlp]);
        } else {
            places.push(Self::BeforeMlp);
        }
        places
    }

    /// The module in a Hugging Face model, whose names depend on how many norms there are.
    fn hugging_face(self, form: &DecoderForm) -> &'static str {
        match self {
            Self::BeforeAttention => "input_layernorm",
            Self::Query => "self_attn.q_norm",
            Self::Key => "self_attn.k_norm",
            Self::AfterAttention => "post_attention_layernorm",
            Self::BeforeMlp if form.norms_after => "pre_feedforward_layernorm",
            Self::BeforeMlp => "post_attention_layernorm",
            Self::AfterMlp => "post_feedforward_layernorm",
        }
    }

    /// The same in llama.cpp's `llama-arch.cpp`.
    fn gguf(self) -> &'static str {
        match self {
            Self::BeforeAttention => "attn_norm",
            Self::Query => "attn_q_norm",
            Self::Key => "attn_k_norm",
            Self::AfterAttention => "post_attention_norm",
            Self::BeforeMlp => "ffn_norm",
            Self::AfterMlp => "post_ffw_norm",
        }
    }
}

/// The layer in llama.cpp, which holds the fused gate and up under the name of up.
fn gguf_module(module: TargetModule) -> &'static str {
    match module {
        TargetModule::QkvProj => "attn_qkv",
        TargetModule::QProj => "attn_q",
        TargetModule::KProj => "attn_k",
        TargetModule::VProj => "attn_v",
        TargetModule::OProj => "attn_output",
        TargetModule::GateProj => "ffn_gate",
        TargetModule::GateUpProj | TargetModule::UpProj => "ffn_up",
        TargetModule::DownProj => "ffn_down",
    }
}

impl Part {
    /// Every tensor of a model of `shape`, in the order of the forward pass.
    pub fn all(shape: &ModelShape) -> Vec<Self> {
        let mut all = vec![Self::Embedding];
        for layer in 0..shape.layers {
            let norms = NormPlace::of(&shape.form).into_iter();
            all.extend(norms.map(|place| Self::Norm { layer, place }));
            for &module in shape.modules() {
                let site = Site { layer, module };
                all.push(Self::Weight(site));
                all.extend(shape.form.has_bias(module).then_some(Self::Bias(site)));
            }
        }
        all.push(Self::FinalNorm);
        all.extend((!shape.tied_embeddings).then_some(Self::Head));
        all
    }

    /// Its name in a Hugging Face model of `form`.
    pub fn hugging_face(&self, form: &DecoderForm) -> String {
        match self {
            Self::Embedding => "model.embed_tokens.weight".into(),
            Self::Norm { layer, place } => {
                format!("model.layers.{layer}.{}.weight", place.hugging_face(form))
            }
            Self::Weight(site) => format!("{}.weight", site.module_path()),
            Self::Bias(site) => format!("{}.bias", site.module_path()),
            Self::FinalNorm => "model.norm.weight".into(),
            Self::Head => "lm_head.weight".into(),
        }
    }

    /// Its name in a GGUF file.
    pub fn gguf(&self) -> String {
        let block = |layer: usize, name: &str, kind: &str| format!("blk.{layer}.{name}.{kind}");
        match self {
            Self::Embedding => "token_embd.weight".into(),
            Self::Norm { layer, place } => block(*layer, place.gguf(), "weight"),
            Self::Weight(site) => block(site.layer, gguf_module(site.module), "weight"),
            Self::Bias(site) => block(site.layer, gguf_module(site.module), "bias"),
            Self::FinalNorm => "output_norm.weight".into(),
            Self::Head => "output.weight".into(),
        }
    }

    /// Its sizes, rows first.
    pub fn dims(&self, shape: &ModelShape) -> Vec<usize> {
        match self {
            Self::Embedding | Self::Head => vec![shape.vocabulary, shape.hidden],
            Self::Norm { place, .. } => vec![match place {
                NormPlace::Query | NormPlace::Key => shape.head_dim,
                _ => shape.hidden,
            }],
            Self::Weight(site) => {
                let (rows, cols) = shape.projection(site.module);
                vec![rows, cols]
            }
            Self::Bias(site) => vec![shape.projection(site.module).0],
            Self::FinalNorm => vec![shape.hidden],
        }
    }

    /// The keys of config.json that its size follows from.
    pub fn keys(&self) -> &'static str {
        match self {
            Self::Embedding | Self::Head => "vocab_size, hidden_size",
            Self::FinalNorm => "hidden_size",
            Self::Norm { place, .. } => match place {
                NormPlace::Query | NormPlace::Key => "head_dim",
                _ => "hidden_size",
            },
            Self::Weight(site) | Self::Bias(site) => match site.module {
                TargetModule::QkvProj => {
                    "num_attention_heads, num_key_value_heads, head_dim, hidden_size"
                }
                TargetModule::QProj => "num_attention_heads, head_dim, hidden_size",
                TargetModule::KProj | TargetModule::VProj => {
                    "num_key_value_heads, head_dim, hidden_size"
                }
                TargetModule::OProj => "hidden_size, num_attention_heads, head_dim",
                TargetModule::DownProj => "hidden_size, intermediate_size",
                _ => "intermediate_size, hidden_size",
            },
        }
    }
}
