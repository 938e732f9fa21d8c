//! Tensor types of an exported GGUF file. `export::outgoing` checks whether a type holds the elements
//! of a tensor.

use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};

use crate::Result;

/// How matrices are held in a file; vectors are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 values of 8 bits with an `f16` scale: 8.5 bits per weight.
    Q8_0,
}

impl ElementType {
    pub(super) fn dtype(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
        }
    }

    /// The value of `general.file_type`, llama.cpp's `llama_ftype`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }
}

/// The bytes of `tensor` in `f32`.
pub(super) fn plain(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(QTensor::quantize(&tensor.contiguous()?, GgmlDType::F32)?
        .data()?
        .into_owned())
}
