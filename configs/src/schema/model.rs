//! The section `model`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A catalogue name, a hub id `owner/name`, or a folder or `.gguf` file on the worker.
    pub base: Option<String>,
    pub quantization: Quantization,
    /// Quantize the NF4 scales themselves to 8 bits.
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

/// In what products with frozen weights are computed; sums are always in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// bf16 on a GPU and on a processor with instructions for it, f32 elsewhere.
    Auto,
    Bf16,
    /// f32 on a processor, where runs are to be held against other programs.
    F32,
}

/// How the frozen weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// What the file is: the blocks of a GGUF file, NF4 for any other.
    Auto,
    /// 4-bit NormalFloat, as bitsandbytes has it.
    Nf4,
    /// The quantized blocks of a GGUF file, as they are.
    Gguf,
    /// The 16- or 32-bit weights of the checkpoint.
    None,
}
