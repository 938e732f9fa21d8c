//! A frozen matrix in 4-bit NormalFloat, and its way back to a matrix that can be multiplied.

use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
#[cfg(feature = "cuda")]
use parking_lot::Mutex;
use parking_lot::RwLockReadGuard;

use super::product::Matrix;
use crate::Result;
use crate::cpu::bf16::{Strips, unpack};
use crate::cpu::nf4::{self, NESTED_BLOCK, NestedScales, Quantised};
#[cfg(feature = "cuda")]
use crate::cuda::ahead::Ahead;
use crate::view::tensor;

/// Scales of the blocks of an [`Nf4Tensor`].
#[derive(Debug, Clone)]
pub enum Nf4Scales {
    /// One `f32` a block [blocks].
    Plain(Tensor),
    /// 8-bit codes [blocks] as `u8`, a scale for each 256 of them, and the mean that was taken off.
    Nested { codes: Tensor, absmax: Tensor, offset: f32 },
}

/// A matrix [rows, cols] of 4-bit codes on a device.
#[derive(Debug, Clone)]
pub struct Nf4Tensor {
    /// The matrix in bf16, where it is being written for the next product. Fields are dropped in their order: the wait for
    /// that comes before what it reads is freed.
    #[cfg(feature = "cuda")]
    ahead: Arc<Mutex<Option<Ahead>>>,
    packed: Tensor,
    scales: Nf4Scales,
    block: usize,
    rows: usize,
    cols: usize,
}

impl Nf4Tensor {
    /// Quantises `weights` [rows, cols], row-major.
    pub fn quantise(
        weights: &[f32],
        (rows, cols): (usize, usize),
        block: usize,
        double: bool,
        device: &Device,
    ) -> Result<Self> {
        if weights.len() != rows * cols {
            candle_core::bail!("{} weights do not make a {rows} x {cols} matrix", weights.len())
        }
        Self::from_quantised(nf4::quantise(weights, block), (rows, cols), block, double, device)
    }

    /// Quantises a matrix of floats on the CPU, without a copy of it in `f32`; on a GPU where that is where it goes.
    ///
    /// The mean of the scales, which second-level scales are of, is found on the processor: its order is part of what
    /// bitsandbytes writes.
    pub fn quantise_matrix(matrix: &Tensor, block: usize, double: bool, device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() && matches!(matrix.dtype(), DType::BF16 | DType::F32) && block.is_multiple_of(2) {
            let (packed, absmax) = crate::cuda::nf4::quantise(&matrix.to_device(device)?, block)?;
            let scales = if double {
                Self::nested_on(nf4::nest(&absmax.to_vec1::<f32>()?), device)?
            } else {
                Nf4Scales::Plain(absmax)
            };
            return Self::assembled(packed, scales, matrix.dims2()?, block);
        }
        let (storage, layout) = matrix.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("matrix is not contiguous") };
        let quantised = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => nf4::quantise(&data[start..end], block),
            Storage::Cpu(CpuStorage::BF16(data)) => nf4::quantise(&data[start..end], block),
            Storage::Cpu(CpuStorage::F16(data)) => nf4::quantise(&data[start..end], block),
            _ => candle_core::bail!("{:?} on {:?} cannot be quantised", matrix.dtype(), matrix.device()),
        };
        Self::from_quantised(quantised, matrix.dims2()?, block, double, device)
    }

    fn from_quantised(
        quantised: Quantised,
        shape: (usize, usize),
        block: usize,
        double: bool,
        device: &Device,
    ) -> Result<Self> {
        let scales = if double {
            Self::nested_on(nf4::nest(&quantised.absmax), device)?
        } else {
            let blocks = quantised.absmax.len();
            Nf4Scales::Plain(Tensor::from_vec(quantised.absmax, blocks, device)?)
        };
        Self::from_parts(quantised.packed, scales, shape, block, device)
    }

    /// Takes codes and scales as another program wrote them.
    ///
    /// # Errors
    /// The number of bytes or of scales does not fit the shape.
    pub fn from_parts(
        packed: Vec<u8>,
        scales: Nf4Scales,
        shape: (usize, usize),
        block: usize,
        device: &Device,
    ) -> Result<Self> {
        let bytes = packed.len();
        Self::assembled(Tensor::from_vec(packed, bytes, device)?, scales, shape, block)
    }

    fn assembled(packed: Tensor, scales: Nf4Scales, (rows, cols): (usize, usize), block: usize) -> Result<Self> {
        let (bytes, blocks) = (packed.elem_count(), (rows * cols).div_ceil(block));
        let found = match &scales {
            Nf4Scales::Plain(absmax) => absmax.elem_count(),
            Nf4Scales::Nested { codes, .. } => codes.elem_count(),
        };
        if bytes != (rows * cols).div_ceil(2) || found != blocks {
            candle_core::bail!("{bytes} bytes and {found} scales do not make a {rows} x {cols} NF4 matrix")
        }
        Ok(Self {
            packed,
            scales,
            block,
            rows,
            cols,
            #[cfg(feature = "cuda")]
            ahead: Arc::default(),
        })
    }

    /// Puts second-level scales on a device.
    pub fn nested_on(nested: NestedScales, device: &Device) -> Result<Nf4Scales> {
        let (blocks, groups) = (nested.codes.len(), nested.absmax.len());
        Ok(Nf4Scales::Nested {
            codes: Tensor::from_vec(nested.codes, blocks, device)?,
            absmax: Tensor::from_vec(nested.absmax, groups, device)?,
            offset: nested.offset,
        })
    }

    /// (rows, cols).
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Two codes a byte, [bytes] as `u8`.
    pub fn packed(&self) -> &Tensor {
        &self.packed
    }

    pub fn scales(&self) -> &Nf4Scales {
        &self.scales
    }

    /// Elements that share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Bytes that codes and scales take.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Nf4Scales::Plain(absmax) => absmax.elem_count() * 4,
            Nf4Scales::Nested { codes, absmax, .. } => codes.elem_count() + absmax.elem_count() * 4,
        };
        self.packed.elem_count() + scales
    }

    /// The matrix [rows, cols]: table value x scale in `f32`, then one rounding to `dtype`.
    pub fn dequantise(&self, dtype: DType) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.has_kernel() && dtype == DType::BF16 {
            let ahead = self.ahead.lock().take();
            return ahead.map_or_else(|| crate::cuda::nf4::dequantise(self), Ahead::take);
        }
        if !matches!(self.packed.device(), Device::Cpu) {
            return self.reference(dtype);
        }
        let (storage, _) = self.packed.storage_and_layout();
        let Storage::Cpu(CpuStorage::U8(packed)) = &*storage else { candle_core::bail!("NF4 codes are kept as bytes") };
        let absmax = self.host_absmax()?;
        let mut out = vec![0f32; self.rows * self.cols];
        nf4::dequantise(packed, &absmax, self.block, &mut out);
        tensor(out, (self.rows, self.cols))?.to_dtype(dtype)
    }

    /// Whether a GPU writes it out by a kernel.
    #[cfg(feature = "cuda")]
    fn has_kernel(&self) -> bool {
        self.packed.device().is_cuda() && self.block.is_multiple_of(32)
    }

    /// [`Self::dequantise`] in candle's operations, for any device.
    pub fn reference(&self, dtype: DType) -> Result<Tensor> {
        let device = self.packed.device();
        let table = Tensor::new(&nf4::byte_table(), device)?;
        let (elements, blocks) = (self.rows * self.cols, (self.rows * self.cols).div_ceil(self.block));
        let values = look_up(&table, &self.packed)?.flatten_all()?;
        let padded = pad(&values.narrow(0, 0, elements)?, blocks * self.block)?;
        let scaled = padded.reshape((blocks, self.block))?.broadcast_mul(&self.absmax()?.reshape((blocks, 1))?)?;
        scaled.flatten_all()?.narrow(0, 0, elements)?.reshape((self.rows, self.cols))?.to_dtype(dtype)
    }

    /// [`Self::absmax`] of a matrix on the CPU.
    fn host_absmax(&self) -> Result<Vec<f32>> {
        match &self.scales {
            Nf4Scales::Plain(absmax) => absmax.to_vec1(),
            Nf4Scales::Nested { codes, absmax, offset } => {
                let (codes, absmax) = (codes.to_vec1()?, absmax.to_vec1()?);
                Ok(nf4::unnest(&NestedScales { codes, absmax, offset: *offset }))
            }
        }
    }

    /// First-level scales [blocks].
    pub fn absmax(&self) -> Result<Tensor> {
        match &self.scales {
            Nf4Scales::Plain(absmax) => Ok(absmax.clone()),
            Nf4Scales::Nested { codes, absmax, offset } => {
                let blocks = codes.elem_count();
                let groups = absmax.elem_count();
                let values = look_up(&Tensor::new(nf4::dynamic_table(), codes.device())?, codes)?;
                let grid = pad(&values, groups * NESTED_BLOCK)?.reshape((groups, NESTED_BLOCK))?;
                let scaled = grid.broadcast_mul(&absmax.reshape((groups, 1))?)?.flatten_all()?.narrow(0, 0, blocks)?;
                scaled + f64::from(*offset)
            }
        }
    }
}

impl Matrix for Nf4Tensor {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn written_out(&self, dtype: DType) -> Result<Tensor> {
        self.dequantise(dtype)
    }

    #[cfg(feature = "cuda")]
    fn begin(&self) -> Result<()> {
        let mut ahead = self.ahead.lock();
        if ahead.is_none() && self.has_kernel() {
            *ahead = Some(Ahead::begin(self)?);
        }
        Ok(())
    }

    fn strips(&self, scale: f32) -> Result<Option<Box<dyn Strips + '_>>> {
        if !matches!(self.packed.device(), Device::Cpu) {
            return Ok(None);
        }
        let packed = self.packed.storage_and_layout().0;
        Ok(Some(Box::new(Nf4Strips { matrix: self, packed, absmax: self.host_absmax()?, scale })))
    }
}

/// A matrix on the CPU with its scales decoded.
struct Nf4Strips<'a> {
    matrix: &'a Nf4Tensor,
    packed: RwLockReadGuard<'a, Storage>,
    absmax: Vec<f32>,
    scale: f32,
}

impl Strips for Nf4Strips<'_> {
    fn shape(&self) -> (usize, usize) {
        self.matrix.shape()
    }

    fn grain(&self) -> usize {
        unpack::RUN
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        let Storage::Cpu(CpuStorage::U8(packed)) = &*self.packed else {
            return debug_assert!(false, "NF4 codes are kept as bytes");
        };
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let start = row * self.matrix.cols;
            let range = start + cols.start..start + cols.end;
            unpack::nf4(packed, self.matrix.block, |block| self.scale * self.absmax[block], range, out);
        }
    }
}

/// Rows of `table` by bytes. candle reads the byte 255 as "no row" and gives zeros, hence the wider indices.
fn look_up(table: &Tensor, bytes: &Tensor) -> Result<Tensor> {
    table.index_select(&bytes.to_dtype(DType::U32)?, 0)
}

fn pad(x: &Tensor, to: usize) -> Result<Tensor> {
    let missing = to - x.elem_count();
    if missing == 0 { Ok(x.clone()) } else { x.pad_with_zeros(0, 0, missing) }
}
