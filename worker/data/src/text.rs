//! What a model's folder says about text: tokenizer, chat template, special tokens. No weights are looked at.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::template::{ChatTemplate, SpecialTokens, TemplateError};

/// The text side of a Hugging Face folder.
#[derive(Debug)]
pub struct ModelText {
    pub tokenizer: Option<Tokenizer>,
    /// Jinja text.
    pub template: Option<String>,
    pub special: SpecialTokens,
}

/// Why the files of a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct ModelTextError {
    pub path: PathBuf,
    pub fault: String,
}

impl ModelText {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, each where it is there.
    ///
    /// # Errors
    /// `tokenizer.json` is no tokenizer.
    pub fn open(folder: &Path) -> Result<Self, ModelTextError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = if path.exists() {
            let read = Tokenizer::from_file(&path);
            Some(read.map_err(|e| ModelTextError { path, fault: format!("it is no tokenizer: {e}") })?)
        } else {
            None
        };
        let settings = std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap_or_default();
        let settings: Value = serde_json::from_str(&settings).unwrap_or_default();
        let token = |key: &str| {
            let value = &settings[key];
            value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
        };
        let separate = std::fs::read_to_string(folder.join("chat_template.jinja")).ok();
        Ok(Self {
            tokenizer,
            template: separate.or_else(|| settings["chat_template"].as_str().map(str::to_owned)),
            special: SpecialTokens { bos: token("bos_token"), eos: token("eos_token") },
        })
    }

    /// The template that `wanted` names: `auto` is the model's own, if it has one.
    pub fn chat_template(&self, wanted: &str) -> Option<Result<ChatTemplate, TemplateError>> {
        let source = if wanted == "auto" { self.template.as_deref()? } else { wanted };
        Some(ChatTemplate::new(source, self.special.clone()))
    }
}
