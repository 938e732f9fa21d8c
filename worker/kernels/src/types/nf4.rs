//! A frozen matrix in 4-bit NormalFloat: codes and the scales of their blocks.

use candle_core::{Device, Tensor};

use crate::Result;

/// Scales of the blocks of an [`Nf4Tensor`].
#[derive(Debug, Clone)]
pub enum Nf4Scales {
    /// One `f32` a block [blocks].
    Plain(Tensor),
    /// 8-bit codes [blocks] as `u8`, a scale for each 256 of them, and the mean that was taken off.
    Nested {
        codes: Tensor,
        absmax: Tensor,
        offset: f32,
    },
}

/// A matrix [rows, cols] of 4-bit codes on a device.
#[derive(Debug, Clone)]
pub struct Nf4Tensor {
    packed: Tensor,
    scales: Nf4Scales,
    block: usize,
    rows: usize,
    cols: usize,
}

impl Nf4Tensor {
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
        Self::assembled(
            Tensor::from_vec(packed, bytes, device)?,
            scales,
            shape,
            block,
        )
    }

    /// Takes codes [bytes] and scales that are on a device already.
    ///
    /// # Errors
    /// As [`Self::from_parts`].
    pub(crate) fn assembled(
        packed: Tensor,
        scales: Nf4Scales,
        (rows, cols): (usize, usize),
        block: usize,
    ) -> Result<Self> {
        let (bytes, blocks) = (packed.elem_count(), (rows * cols).div_ceil(block));
        let found = match &scales {
            Nf4Scales::Plain(absmax) => absmax.elem_count(),
            Nf4Scales::Nested { codes, .. } => codes.elem_count(),
        };
        if bytes != (rows * cols).div_ceil(2) || found != blocks {
            candle_core::bail!(
                "{bytes} bytes and {found} scales do not make a {rows} x {cols} NF4 matrix"
            )
        }
        Ok(Self {
            packed,
            scales,
            block,
            rows,
            cols,
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
}

/// First-level scales, themselves quantized to 8 bits, in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedScales {
    pub codes: Vec<u8>,
    pub absmax: Vec<f32>,
    /// Mean of the scales, taken off before quantizing.
    pub offset: f32,
}

impl NestedScales {
    /// On a device.
    pub fn to_device(self, device: &Device) -> Result<Nf4Scales> {
        let (blocks, groups) = (self.codes.len(), self.absmax.len());
        Ok(Nf4Scales::Nested {
            codes: Tensor::from_vec(self.codes, blocks, device)?,
            absmax: Tensor::from_vec(self.absmax, groups, device)?,
            offset: self.offset,
        })
    }
}
