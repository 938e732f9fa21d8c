//! Frozen weights, in whichever form a checkpoint holds them.

mod bnb;
mod gguf;
mod open;
mod safetensors;

use std::borrow::Cow;

use candle_core::backend::BackendStorage;
use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, DType, Device, Tensor};
use qlora_kernels::Nf4Tensor;
use rayon::prelude::*;

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

impl Gguf {
    /// Dequantises on all threads: candle's own form uses one. Blocks run along rows, so rows can be split.
    fn by_rows(&self) -> Result<Tensor> {
        let (rows, cols) = self.shape();
        let (dtype, data) = (self.0.dtype(), self.0.data()?);
        let row_bytes = data.len() / rows;
        let part_rows = rows.div_ceil(2 * rayon::current_num_threads());
        let mut values = vec![0f32; rows * cols];
        let parts = values.par_chunks_mut(part_rows * cols).zip(data.par_chunks(part_rows * row_bytes));
        parts.try_for_each(|(out, bytes)| match dtype.from_data(Cow::Borrowed(bytes)).dequantize(out.len())? {
            CpuStorage::F32(part) => {
                out.copy_from_slice(&part);
                Ok(())
            }
            other => candle_core::bail!("blocks dequantise to {:?}, not f32", other.dtype()),
        })?;
        Ok(Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)
    }
}

impl FrozenWeight for Gguf {
    fn shape(&self) -> (usize, usize) {
        let dims = self.0.shape().dims();
        (dims[0], dims[1])
    }

    fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        let whole = if self.0.device().is_cpu() { self.by_rows()? } else { self.0.dequantize(&self.0.device())? };
        Ok(whole.to_dtype(dtype)?)
    }

    fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.0.embedding(ids)?.to_dtype(dtype)?)
    }

    fn bytes(&self) -> usize {
        self.0.storage_size_in_bytes()
    }
}
