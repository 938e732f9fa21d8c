//! The section `model`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The base model, and how its frozen weights are held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Required: a catalogue name, a hub id `owner/name`, or a folder or `.gguf` file on the worker.
    /// A relative path starts where that of `data.train` does, and the whole path is sent. A name
    /// that nothing has is refused before anything is sent.
    pub base: Option<String>,
    pub quantization: Quantization,
    /// Quantize the NF4 scales to 8 bits.
    pub double_quant: bool,
    /// Weights that share one NF4 scale.
    pub block_size: usize,
    pub compute: Compute,
}

impl ModelConfig {
    /// No model of its own, held as bitsandbytes and published results have it.
    pub fn held_as(quantization: Quantization, compute: Compute) -> Self {
        Self {
            base: None,
            quantization,
            double_quant: true,
            block_size: 64,
            compute,
        }
    }
}

/// Element type of products with frozen weights; sums are always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// bf16 on a GPU and on CPUs with AMX, AVX512-BF16, AVX2 or NEON, f32 elsewhere.
    Auto,
    /// 16-bit brain floating point.
    Bf16,
    /// Single precision on a CPU, to compare a run with other programs.
    F32,
}

/// How the frozen weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// The blocks of a `.gguf` file, `nf4` for a folder.
    Auto,
    /// 4-bit NormalFloat as in bitsandbytes.
    Nf4,
    /// The quantized blocks of a `.gguf` file as they are.
    Gguf,
    /// The 16- or 32-bit weights of the checkpoint.
    None,
}
