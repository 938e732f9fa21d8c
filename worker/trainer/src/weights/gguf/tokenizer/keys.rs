//! The tokenizer's metadata in a GGUF file, read by type.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use crate::model::{as_number, as_written};

/// Why it cannot be used; the text names the key.
pub(crate) enum Fault {
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

/// The metadata that begin with `tokenizer.ggml.`.
pub(super) struct Keys<'a>(pub &'a HashMap<String, Value>);

impl<'a> Keys<'a> {
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(&format!("tokenizer.ggml.{name}"))
    }

    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("`tokenizer.ggml.{name}` is missing"))
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        let text = self
            .value(name)
            .map(|value| value.to_string().map(String::as_str));
        text.transpose()
            .map_err(|_| format!("`tokenizer.ggml.{name}` is no text"))
    }

    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, String> {
        let list = self
            .value(name)
            .map(|value| value.to_vec().map(Vec::as_slice));
        list.transpose()
            .map_err(|_| format!("`tokenizer.ggml.{name}` is no list"))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let flag = self.value(name).map(Value::to_bool).transpose();
        flag.map_err(|_| format!("`tokenizer.ggml.{name}` is neither true nor false"))
    }

    pub fn id(&self, name: &str) -> Result<Option<u32>, String> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let is_whole = !matches!(value, Value::F32(_) | Value::F64(_));
        let id = as_number(value)
            .filter(|_| is_whole)
            .filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id));
        // Files of llama.cpp's early days have -1 where there is no such token. No answer would end
        // without that one.
        if as_number(value) == Some(-1.0) && name != "eos_token_id" {
            return Ok(None);
        }
        id.map(|id| Some(id as u32)).ok_or_else(|| {
            let value = as_written(value);
            format!("`tokenizer.ggml.{name}: {value}` is no id of a token")
        })
    }
}
