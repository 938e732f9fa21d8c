//! Rows that products are made with: a tensor, or bf16 in the layout that products on the processor read.
//!
//! What one product gives the next only to be rounded again is kept in bf16 from the start: that halves its memory and
//! the traffic, and saves a pass.

use std::cell::OnceCell;
use std::ops::Range;

use candle_core::{DType, Tensor};

use super::product::{Matrix, PlainStrips};
use super::rows;
use crate::Result;
use crate::cpu::bf16::Strips;
use crate::cpu::bf16::pack::{Rows, STEP, round};
use crate::view::{tensor, view};

/// Rows [M, K].
pub struct Activations(Values);

enum Values {
    /// A tensor, and its bf16 form once a product has needed it: several products share an input.
    Tensor { tensor: Tensor, packed: OnceCell<Rows> },
    /// bf16, and a tensor of it once something else has needed it.
    Rows { rows: Rows, tensor: OnceCell<Tensor> },
}

impl From<Tensor> for Activations {
    fn from(tensor: Tensor) -> Self {
        Self(Values::Tensor { tensor, packed: OnceCell::new() })
    }
}

impl From<&Tensor> for Activations {
    fn from(tensor: &Tensor) -> Self {
        tensor.clone().into()
    }
}

impl From<Rows> for Activations {
    fn from(rows: Rows) -> Self {
        Self(Values::Rows { rows, tensor: OnceCell::new() })
    }
}

impl Activations {
    /// [M, K].
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match &self.0 {
            Values::Tensor { tensor, .. } => tensor.dims2(),
            Values::Rows { rows, .. } => Ok((rows.rows, rows.width)),
        }
    }

    pub fn tensor(&self) -> Result<&Tensor> {
        match &self.0 {
            Values::Tensor { tensor, .. } => Ok(tensor),
            Values::Rows { rows, tensor: slot } => match slot.get() {
                Some(tensor) => Ok(tensor),
                None => {
                    let values = tensor(rows.unpack(), (rows.rows, rows.width))?;
                    Ok(slot.get_or_init(|| values))
                }
            },
        }
    }

    /// The bf16 form, where that is what the values are.
    pub(crate) fn own_rows(&self) -> Option<&Rows> {
        match &self.0 {
            Values::Tensor { .. } => None,
            Values::Rows { rows, .. } => Some(rows),
        }
    }

    /// The bf16 form for a product.
    pub(crate) fn rows(&self) -> Result<&Rows> {
        match &self.0 {
            Values::Rows { rows, .. } => Ok(rows),
            Values::Tensor { tensor, packed } => match packed.get() {
                Some(rows) => Ok(rows),
                None => {
                    let rows = Rows::pack(&view(tensor)?, tensor.dims2()?.1);
                    Ok(packed.get_or_init(|| rows))
                }
            },
        }
    }

    fn known_rows(&self) -> Option<&Rows> {
        match &self.0 {
            Values::Rows { rows, .. } => Some(rows),
            Values::Tensor { packed, .. } => packed.get(),
        }
    }
}

/// A gradient of weights is a product of activations with activations.
impl Matrix for Activations {
    fn shape(&self) -> (usize, usize) {
        self.dims2().unwrap_or_default()
    }

    fn written_out(&self, dtype: DType) -> Result<Tensor> {
        rows::cast(self.tensor()?, dtype)
    }

    fn strips(&self, scale: f32) -> Result<Option<Box<dyn Strips + '_>>> {
        if let Some(rows) = self.known_rows() {
            return Ok(Some(Box::new(RowStrips { rows, scale })));
        }
        Ok(PlainStrips::of(self.tensor()?, scale).map(|strips| Box::new(strips) as _))
    }
}

/// Rows that are bf16 already.
struct RowStrips<'a> {
    rows: &'a Rows,
    scale: f32,
}

impl Strips for RowStrips<'_> {
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
                values.iter_mut().zip(source).for_each(|(v, &bits)| *v = f32::from_bits(u32::from(bits) << 16));
                round(&values[..source.len()], self.scale, out);
            }
        }
    }
}
