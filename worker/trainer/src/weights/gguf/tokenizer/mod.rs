//! The tokenizer of a GGUF file: byte-level ([`byte_level`], llama.cpp's `gpt2`) or SentencePiece's BPE
//! ([`sentence_piece`], llama.cpp's `llama`).

mod byte_level;
mod sentence_piece;
mod vocabulary;

use std::collections::HashMap;

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::Tokenizer;

use self::vocabulary::Vocabulary;

pub(crate) use self::byte_level::CUTS;
pub(crate) use self::vocabulary::TokenType;

/// Why it cannot be used; the text names the key.
pub(super) enum Fault {
    /// The file is damaged.
    Broken(String),
    /// The file is whole, and of a kind that is not read.
    Unsupported(String),
}

impl From<String> for Fault {
    fn from(fault: String) -> Self {
        Self::Broken(fault)
    }
}

pub(super) fn read(content: &Content) -> Result<Tokenizer, Fault> {
    let keys = Keys(&content.metadata);
    match keys.required("model", keys.text("model")?)? {
        "gpt2" => byte_level::read(content, &keys, &Vocabulary::read(&keys)?),
        "llama" => sentence_piece::read(&keys, &Vocabulary::read(&keys)?),
        other => Err(Fault::Unsupported(format!("`tokenizer.ggml.model: {other}` is not read; gpt2 and llama are"))),
    }
}

/// The id under `tokenizer.ggml.<which>_token_id` and its text; none where the file has no such key.
///
/// # Errors
/// It is no id of a token, by the name of the key.
pub(super) fn special_token(content: &Content, which: &str) -> Result<Option<(u32, String)>, String> {
    let keys = Keys(&content.metadata);
    let name = format!("{which}_token_id");
    let Some(id) = keys.id(&name)? else { return Ok(None) };
    let tokens = keys.required("tokens", keys.list("tokens")?)?;
    let token = tokens.get(id as usize).and_then(|token| token.to_string().ok());
    let fault = || format!("`tokenizer.ggml.{name}` is {id}, which is none of the {} tokens", tokens.len());
    token.map(|token| Some((id, token.clone()))).ok_or_else(fault)
}

/// The metadata that begin with `tokenizer.ggml.`.
struct Keys<'a>(&'a HashMap<String, Value>);

impl<'a> Keys<'a> {
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(&format!("tokenizer.ggml.{name}"))
    }

    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("`tokenizer.ggml.{name}` is missing"))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        let text = self.value(name).map(|value| value.to_string().map(String::as_str));
        text.transpose().map_err(|_| format!("`tokenizer.ggml.{name}` is no text"))
    }

    fn list(&self, name: &str) -> Result<Option<&'a [Value]>, String> {
        let list = self.value(name).map(|value| value.to_vec().map(Vec::as_slice));
        list.transpose().map_err(|_| format!("`tokenizer.ggml.{name}` is no list"))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let flag = self.value(name).map(Value::to_bool).transpose();
        flag.map_err(|_| format!("`tokenizer.ggml.{name}` is neither true nor false"))
    }

    fn id(&self, name: &str) -> Result<Option<u32>, String> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let id =
            super::header::as_number(value).filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id));
        // Files of llama.cpp's early days have -1 where there is no such token.
        if super::header::as_number(value) == Some(-1.0) {
            return Ok(None);
        }
        id.map(|id| Some(id as u32)).ok_or_else(|| format!("`tokenizer.ggml.{name}: {value:?}` is no id of a token"))
    }
}
