//! Frozen matrices in host memory as sources of panels.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use parking_lot::RwLockReadGuard;

use crate::Result;
use crate::backend::cpu::bf16::unpack;
use crate::host;
use crate::host::bf16::{round, to_bf16};
use crate::host::view::{Bytes, bytes};
use crate::types::activations::Activations;
use crate::types::matrix::{Matrix, PanelSource, Stored};
use crate::types::nf4::Nf4Tensor;
use crate::types::rows::{Rows, STEP};

/// `scale` times `matrix`.
///
/// # Errors
/// It is not in host memory, or not of floats.
pub(super) fn of<'a>(matrix: &'a dyn Matrix, scale: f32) -> Result<Box<dyn PanelSource + 'a>> {
    Ok(match matrix.stored() {
        Stored::Floats(tensor) => Box::new(Floats::of(tensor, scale)?),
        Stored::Activations(rows) => of_activations(rows, scale)?,
        Stored::Nf4(matrix) => Box::new(Nf4::of(matrix, scale)?),
        Stored::Blocks(blocks) => blocks.panels(scale)?,
    })
}

fn of_activations(activations: &Activations, scale: f32) -> Result<Box<dyn PanelSource + '_>> {
    Ok(match activations.known_rows() {
        Some(rows) => Box::new(Bf16Rows { rows, scale }),
        None => Box::new(Floats::of(activations.tensor()?, scale)?),
    })
}

/// Rows that are bf16 already.
struct Bf16Rows<'a> {
    rows: &'a Rows,
    scale: f32,
}

impl PanelSource for Bf16Rows<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows.rows, self.rows.width)
    }

    fn grain(&self) -> usize {
        1
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let source = &self.rows.row(row)[cols.clone()];
            if self.scale == 1.0 {
                out[..source.len()].copy_from_slice(source);
                continue;
            }
            for (source, out) in source.chunks(STEP).zip(out.chunks_mut(STEP)) {
                let mut values = [0f32; STEP];
                values
                    .iter_mut()
                    .zip(source)
                    .for_each(|(v, &bits)| *v = f32::from_bits(u32::from(bits) << 16));
                round(&values[..source.len()], self.scale, out);
            }
        }
    }
}

/// NF4 with its scales decoded.
struct Nf4<'a> {
    matrix: &'a Nf4Tensor,
    packed: Bytes<'a>,
    absmax: Vec<f32>,
    scale: f32,
}

impl<'a> Nf4<'a> {
    fn of(matrix: &'a Nf4Tensor, scale: f32) -> Result<Self> {
        let (packed, absmax) = (bytes(matrix.packed())?, host::nf4::absmax(matrix.scales())?);
        Ok(Self {
            matrix,
            packed,
            absmax,
            scale,
        })
    }
}

impl PanelSource for Nf4<'_> {
    fn shape(&self) -> (usize, usize) {
        self.matrix.dims()
    }

    fn grain(&self) -> usize {
        unpack::RUN
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let start = row * self.matrix.dims().1;
            let range = start + cols.start..start + cols.end;
            unpack::nf4(
                &self.packed,
                self.matrix.block(),
                |block| self.scale * self.absmax[block],
                range,
                out,
            );
        }
    }
}

/// A matrix of floats as it lies in memory.
struct Floats<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    shape: (usize, usize),
    scale: f32,
}

impl<'a> Floats<'a> {
    /// # Errors
    /// The matrix is not of floats, in pieces, or not in host memory.
    fn of(matrix: &'a Tensor, scale: f32) -> Result<Self> {
        let known = matches!(matrix.dtype(), DType::F32 | DType::F16 | DType::BF16);
        if !known || !matches!(matrix.device(), Device::Cpu) {
            candle_core::bail!(
                "{:?} on {:?} is no matrix that a CPU multiplies with",
                matrix.dtype(),
                matrix.device()
            )
        }
        let shape = matrix.dims2()?;
        let (storage, layout) = matrix.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            candle_core::bail!("a matrix is not contiguous")
        };
        Ok(Self {
            storage,
            start,
            shape,
            scale,
        })
    }

    fn convert<T: Copy + Into<f32>>(&self, row: &[T], out: &mut [u16]) {
        out.iter_mut()
            .zip(row)
            .for_each(|(out, &value)| *out = to_bf16(self.scale * value.into()));
    }

    fn rows<'s, T>(
        &self,
        data: &'s [T],
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> impl Iterator<Item = &'s [T]> {
        let (start, width) = (self.start, self.shape.1);
        rows.map(move |row| &data[start + row * width..][cols.clone()])
    }
}

impl PanelSource for Floats<'_> {
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
                out.zip(self.rows(data, rows, cols.clone()))
                    .for_each(|(out, row)| round(row, self.scale, out));
            }
            Storage::Cpu(CpuStorage::BF16(data)) if self.scale == 1.0 => {
                out.zip(self.rows(data, rows, cols.clone()))
                    .for_each(|(out, row)| out.copy_from_slice(row.reinterpret_cast()));
            }
            Storage::Cpu(CpuStorage::BF16(data)) => {
                out.zip(self.rows(data, rows, cols.clone()))
                    .for_each(|(out, row)| self.convert(row, out));
            }
            Storage::Cpu(CpuStorage::F16(data)) => {
                out.zip(self.rows(data, rows, cols.clone()))
                    .for_each(|(out, row)| self.convert(row, out));
            }
            _ => debug_assert!(false, "`of` takes floats on the CPU only"),
        }
    }
}
