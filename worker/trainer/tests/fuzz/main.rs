//! Fuzz targets: models and adapters that others made are read, or refused in words, before
//! anything is allocated for what they claim.

mod adapter;
mod config_json;
mod gguf;
mod safetensors;
mod tiny;

use qlora_trainer::Error;

/// A fault that a person can act on: it says something, and is of the model or of the adapter.
fn is_told(error: &Error) {
    assert!(!error.to_string().trim().is_empty(), "{error:?}");
}
