//! Frozen weights, in whichever form a checkpoint holds them.

mod agreement;
pub(crate) mod bnb;
mod files;
mod finite;
pub(crate) mod gguf;
mod index;
mod open;
pub(crate) mod plain;
mod random;
mod safetensors;
mod shard_writer;
mod text_files;

use std::borrow::Cow;
use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, DType, Device, Tensor};
use qlora_kernels::host::ggml::Blocks;
use qlora_kernels::{Backend, BlockMatrix, Matrix, Nf4Tensor, PanelSource, Stored};
use rayon::prelude::*;

use crate::Result;

pub(crate) use agreement::READABLE;
pub use files::ModelFiles;
pub(crate) use finite::{first_broken, first_broken_in_blocks};
pub use index::{INDEX, SINGLE, indexed_files};
pub use open::{Checkpoint, format_of, shape_of};
pub(crate) use safetensors::{ShardEntries, ShardEntry, Shards, metadata};
pub(crate) use shard_writer::ShardWriter;

/// A matrix [out, in] that is read and never changed.
pub trait FrozenWeight: Matrix + Send + Sync {
    /// The rows `ids` of the matrix as `dtype`: an embedding; `backend` is that of the device that
    /// holds it.
    fn rows(&self, backend: &dyn Backend, ids: &Tensor, dtype: DType) -> Result<Tensor>;
    /// Bytes that it takes in memory.
    fn bytes(&self) -> usize;

    /// The matrix on the CPU in the element type that loses nothing.
    fn as_stored(&self) -> Result<Tensor>;
}

/// Weights as the checkpoint has them.
pub(crate) struct Plain(pub Tensor);

impl Matrix for Plain {
    fn shape(&self) -> (usize, usize) {
        Matrix::shape(&self.0)
    }

    fn stored(&self) -> Stored<'_> {
        Stored::Floats(&self.0)
    }
}

impl FrozenWeight for Plain {
    fn rows(&self, backend: &dyn Backend, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(backend.cast(&backend.gather_rows(&self.0, ids)?, dtype)?)
    }

    fn bytes(&self) -> usize {
        self.0.elem_count() * self.0.dtype().size_in_bytes()
    }

    fn as_stored(&self) -> Result<Tensor> {
        Ok(self.0.to_device(&Device::Cpu)?)
    }
}

impl FrozenWeight for Nf4Tensor {
    fn rows(&self, backend: &dyn Backend, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(backend.gather_rows(&backend.dequantize(self, dtype)?, ids)?)
    }

    fn bytes(&self) -> usize {
        Nf4Tensor::bytes(self)
    }

    fn as_stored(&self) -> Result<Tensor> {
        let whole = qlora_kernels::backend::reference(self.packed().device(), DType::F32)
            .dequantize(self, DType::F32)?;
        Ok(whole.to_device(&Device::Cpu)?)
    }
}

/// The quantized blocks of a GGUF file.
pub(crate) struct Gguf(pub QTensor);

impl Gguf {
    /// Dequantizes on all threads: candle's own form uses one. Blocks run along rows, so rows can
    /// be split.
    fn by_rows(&self) -> candle_core::Result<Tensor> {
        let (rows, cols) = self.shape();
        let (dtype, data) = (self.0.dtype(), self.0.data()?);
        let row_bytes = data.len() / rows;
        let part_rows = rows.div_ceil(2 * rayon::current_num_threads());
        let mut values = vec![0f32; rows * cols];
        let parts = values
            .par_chunks_mut(part_rows * cols)
            .zip(data.par_chunks(part_rows * row_bytes));
        parts.try_for_each(|(out, bytes)| {
            match dtype
                .from_data(Cow::Borrowed(bytes))
                .dequantize(out.len())?
            {
                CpuStorage::F32(part) => {
                    out.copy_from_slice(&part);
                    Ok(())
                }
                other => candle_core::bail!("blocks dequantize to {:?}, not f32", other.dtype()),
            }
        })?;
        Tensor::from_vec(values, (rows, cols), &Device::Cpu)
    }
}

/// The quantized blocks as they lie in memory.
struct GgufPanels<'a> {
    data: Cow<'a, [u8]>,
    dtype: GgmlDType,
    shape: (usize, usize),
    scale: f32,
}

impl PanelSource for GgufPanels<'_> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn grain(&self) -> usize {
        self.dtype.block_size()
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        let bytes_of =
            |elements: usize| elements / self.dtype.block_size() * self.dtype.type_size();
        let part = bytes_of(cols.start)..bytes_of(cols.end);
        let row_bytes = bytes_of(self.shape.1);
        if let Some(blocks) = simple_blocks(self.dtype) {
            for (row, out) in rows.zip(out.chunks_mut(stride)) {
                blocks.unpack(&self.data[row * row_bytes..][part.clone()], self.scale, out);
            }
            return;
        }
        // One call for all rows: candle's dequantization allocates.
        let blocks: Vec<u8> = rows
            .clone()
            .flat_map(|row| &self.data[row * row_bytes..][part.clone()])
            .copied()
            .collect();
        let values = self
            .dtype
            .from_data(Cow::Owned(blocks))
            .dequantize(rows.len() * cols.len());
        let Ok(CpuStorage::F32(values)) = values else {
            return debug_assert!(false, "whole blocks dequantize to f32");
        };
        for (values, out) in values.chunks_exact(cols.len()).zip(out.chunks_mut(stride)) {
            qlora_kernels::host::bf16::round(values, self.scale, out);
        }
    }
}

/// The block types that the kernels unpack themselves.
fn simple_blocks(dtype: GgmlDType) -> Option<Blocks> {
    match dtype {
        GgmlDType::Q4_0 => Some(Blocks::Q4_0),
        GgmlDType::Q4_1 => Some(Blocks::Q4_1),
        GgmlDType::Q8_0 => Some(Blocks::Q8_0),
        _ => None,
    }
}

impl Matrix for Gguf {
    fn shape(&self) -> (usize, usize) {
        let dims = self.0.shape().dims();
        (dims[0], dims[1])
    }

    fn stored(&self) -> Stored<'_> {
        Stored::Blocks(self)
    }
}

impl BlockMatrix for Gguf {
    fn dequantize(&self, dtype: DType) -> candle_core::Result<Tensor> {
        let whole = if self.0.device().is_cpu() {
            self.by_rows()?
        } else {
            self.0.dequantize(&self.0.device())?
        };
        whole.to_dtype(dtype)
    }

    fn panels(&self, scale: f32) -> candle_core::Result<Box<dyn PanelSource + '_>> {
        if !self.0.device().is_cpu() {
            candle_core::bail!("blocks on {:?} are not in host memory", self.0.device())
        }
        Ok(Box::new(GgufPanels {
            data: self.0.data()?,
            dtype: self.0.dtype(),
            shape: self.shape(),
            scale,
        }))
    }
}

impl FrozenWeight for Gguf {
    fn rows(&self, _: &dyn Backend, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.0.embedding(ids)?.to_dtype(dtype)?)
    }

    fn bytes(&self) -> usize {
        self.0.storage_size_in_bytes()
    }

    fn as_stored(&self) -> Result<Tensor> {
        Ok(self.dequantize(DType::F32)?.to_device(&Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strips of every block type against candle's dequantization, rounded.
    #[test]
    fn strips_of_blocks_are_what_candle_dequantizes() {
        let (rows, cols) = (5, 512);
        let values: Vec<f32> = (0..rows * cols)
            .map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.3)
            .collect();
        let matrix = Tensor::from_vec(values, (rows, cols), &Device::Cpu).expect("a matrix");
        for dtype in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q8_0,
            GgmlDType::Q5_1,
            GgmlDType::Q6K,
        ] {
            let weight = Gguf(QTensor::quantize(&matrix, dtype).expect("blocks"));
            let wanted: Vec<Vec<f32>> = weight
                .dequantize(DType::F32)
                .and_then(|t| t.to_vec2())
                .expect("values");
            let strips = weight.panels(1.0).expect("panels");
            let mut out = vec![0u16; 3 * 300];
            strips.unpack(1..4, 256..512, &mut out, 300);
            for (row, out) in wanted[1..4].iter().zip(out.chunks(300)) {
                for (&value, &bits) in row[256..].iter().zip(out) {
                    let found = f32::from_bits(u32::from(bits) << 16);
                    assert!(
                        (found - value).abs() <= value.abs() / 256.0,
                        "{dtype:?}: {found} and {value}"
                    );
                }
            }
        }
    }
}
