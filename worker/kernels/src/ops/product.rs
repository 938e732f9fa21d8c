//! Products with a frozen matrix [N, K]: `x` [M, K] to `x w^T` [M, N], and back `dy` to `dy w`.
//!
//! No gradient of the matrix exists. The reference form writes the matrix out and multiplies; the fast form on the
//! processor multiplies in bf16 and sums in `f32`, a strip of the matrix at a time.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use parking_lot::RwLockReadGuard;
use std::ops::Range;

use crate::Result;
use crate::cpu::bf16::{self, Instructions, Strips, pack};
use crate::view::{tensor, view};

/// A frozen matrix that can be multiplied with.
pub trait Linear {
    /// `x` [M, K] to [M, N].
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
    /// `dy` [M, N] to [M, K].
    fn backward(&self, dy: &Tensor) -> Result<Tensor>;
}

/// A matrix [N, K] written out.
impl Linear for Tensor {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.t()?)
    }

    fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        dy.matmul(self)
    }
}

/// `x` [M, K] in `f32` on the CPU times the transpose of `w`.
pub fn forward(x: &Tensor, w: &dyn Strips, instructions: Instructions) -> Result<Tensor> {
    let (m, n) = (fit(x, w.shape().1)?, w.shape().0);
    let mut y = vec![0f32; m * n];
    bf16::forward(&view(x)?, w, &mut y, instructions);
    tensor(y, (m, n))
}

/// `dy` [M, N] in `f32` on the CPU times `w`.
pub fn backward(dy: &Tensor, w: &dyn Strips, instructions: Instructions) -> Result<Tensor> {
    let (m, k) = (fit(dy, w.shape().0)?, w.shape().1);
    let mut dx = vec![0f32; m * k];
    bf16::backward(&view(dy)?, w, &mut dx, instructions);
    tensor(dx, (m, k))
}

fn fit(x: &Tensor, wanted: usize) -> Result<usize> {
    let (m, width) = x.dims2()?;
    if width != wanted {
        candle_core::bail!("{width} columns cannot be multiplied with a matrix of {wanted}")
    }
    Ok(m)
}

/// A matrix of floats as it lies in memory.
pub struct PlainStrips<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    shape: (usize, usize),
}

impl<'a> PlainStrips<'a> {
    /// Strips of a contiguous matrix of floats on the CPU; none where it is something else.
    pub fn of(matrix: &'a Tensor) -> Option<Self> {
        let known = matches!(matrix.dtype(), DType::F32 | DType::F16 | DType::BF16);
        let shape = matrix.dims2().ok().filter(|_| known && matches!(matrix.device(), Device::Cpu))?;
        let (storage, layout) = matrix.storage_and_layout();
        let (start, _) = layout.contiguous_offsets()?;
        Some(Self { storage, start, shape })
    }

    fn rows<'s, T>(&self, data: &'s [T], rows: Range<usize>, cols: Range<usize>) -> impl Iterator<Item = &'s [T]> {
        let (start, width) = (self.start, self.shape.1);
        rows.map(move |row| &data[start + row * width..][cols.clone()])
    }
}

impl Strips for PlainStrips<'_> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn grain(&self) -> usize {
        1
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        let out = out.chunks_mut(stride).map(|out| &mut out[..cols.len()]);
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => {
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| pack::round(row, out));
            }
            Storage::Cpu(CpuStorage::BF16(data)) => {
                let bits =
                    |row: &[half::bf16], out: &mut [u16]| out.iter_mut().zip(row).for_each(|(o, v)| *o = v.to_bits());
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| bits(row, out));
            }
            Storage::Cpu(CpuStorage::F16(data)) => {
                let convert = |v: &half::f16| pack::to_bf16(v.to_f32());
                let bits =
                    |row: &[half::f16], out: &mut [u16]| out.iter_mut().zip(row).for_each(|(o, v)| *o = convert(v));
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| bits(row, out));
            }
            _ => debug_assert!(false, "`of` takes floats on the CPU only"),
        }
    }
}
