//! Frozen weights, in whichever form a checkpoint holds them.

mod bnb;
mod gguf;
mod open;
mod safetensors;

use candle_core::quantized::QTensor;
use candle_core::{DType, Tensor};
use qlora_kernels::Nf4Tensor;

use crate::Result;

pub use open::{Checkpoint, ModelFiles, Source};

/// A matrix [out, in] that is read and never changed.
pub trait FrozenWeight: Send + Sync {
    /// (out, in).
    fn shape(&self) -> (usize, usize);
    /// The matrix as `dtype`.
    fn dequantize(&self, dtype: DType) -> Result<Tensor>;
    /// The rows `ids` of the matrix as `dtype`: an embedding.
    fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor>;
    /// Bytes that it takes in memory.
    fn bytes(&self) -> usize;
}

/// Weights as the checkpoint has them.
pub(crate) struct Plain(pub Tensor);

impl FrozenWeight for Plain {
    fn shape(&self) -> (usize, usize) {
        let dims = self.0.dims();
        (dims[0], dims[1])
    }

    fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        Ok(self.0.to_dtype(dtype)?)
    }

    fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.0.index_select(ids, 0)?.to_dtype(dtype)?)
    }

    fn bytes(&self) -> usize {
        self.0.elem_count() * self.0.dtype().size_in_bytes()
    }
}

impl FrozenWeight for Nf4Tensor {
    fn shape(&self) -> (usize, usize) {
        Nf4Tensor::shape(self)
    }

    fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        Ok(self.dequantise(dtype)?)
    }

    fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.dequantise(dtype)?.index_select(ids, 0)?)
    }

    fn bytes(&self) -> usize {
        Nf4Tensor::bytes(self)
    }
}

/// The quantised blocks of a GGUF file.
pub(crate) struct Gguf(pub QTensor);

impl FrozenWeight for Gguf {
    fn shape(&self) -> (usize, usize) {
        let dims = self.0.shape().dims();
        (dims[0], dims[1])
    }

    fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        Ok(self.0.dequantize(&self.0.device())?.to_dtype(dtype)?)
    }

    fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.0.embedding(ids)?.to_dtype(dtype)?)
    }

    fn bytes(&self) -> usize {
        self.0.storage_size_in_bytes()
    }
}
