//! Inputs and outputs of matrix products: a tensor, or bf16 in the layout that a CPU's kernels read
//! ([`Rows`]).
//!
//! A result that the next product would round to bf16 is packed from the start: that halves its memory
//! and the traffic, and saves a pass.

use std::cell::OnceCell;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::types::rows::Rows;

/// A matrix [M, K]; each of its two forms is made when it is first needed, and kept.
pub struct Activations(Values);

enum Values {
    /// A tensor, and its bf16 form once a product has needed it: several products share an input.
    Tensor {
        tensor: Tensor,
        packed: OnceCell<Rows>,
    },
    /// bf16, and a tensor of it once something else has needed it.
    Rows {
        rows: Rows,
        tensor: OnceCell<Tensor>,
    },
}

impl From<Tensor> for Activations {
    fn from(tensor: Tensor) -> Self {
        Self(Values::Tensor {
            tensor,
            packed: OnceCell::new(),
        })
    }
}

impl From<&Tensor> for Activations {
    fn from(tensor: &Tensor) -> Self {
        tensor.clone().into()
    }
}

impl From<Rows> for Activations {
    fn from(rows: Rows) -> Self {
        Self(Values::Rows {
            rows,
            tensor: OnceCell::new(),
        })
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

    /// The values as a tensor, which is unpacked on the CPU the first time where they are packed.
    pub fn tensor(&self) -> Result<&Tensor> {
        match &self.0 {
            Values::Tensor { tensor, .. } => Ok(tensor),
            Values::Rows { rows, tensor } => match tensor.get() {
                Some(tensor) => Ok(tensor),
                None => {
                    let values =
                        Tensor::from_vec(rows.unpack(), (rows.rows, rows.width), &Device::Cpu)?;
                    Ok(tensor.get_or_init(|| values))
                }
            },
        }
    }

    /// The packed form, where the values were made so.
    pub(crate) fn own_rows(&self) -> Option<&Rows> {
        match &self.0 {
            Values::Tensor { .. } => None,
            Values::Rows { rows, .. } => Some(rows),
        }
    }

    /// The packed form; `pack` makes it of a tensor the first time.
    pub(crate) fn rows(&self, pack: impl FnOnce(&Tensor) -> Result<Rows>) -> Result<&Rows> {
        match &self.0 {
            Values::Rows { rows, .. } => Ok(rows),
            Values::Tensor { tensor, packed } => match packed.get() {
                Some(rows) => Ok(rows),
                None => {
                    let rows = pack(tensor)?;
                    Ok(packed.get_or_init(|| rows))
                }
            },
        }
    }

    /// The packed form, where the values were made so or were packed before.
    pub(crate) fn known_rows(&self) -> Option<&Rows> {
        match &self.0 {
            Values::Rows { rows, .. } => Some(rows),
            Values::Tensor { packed, .. } => packed.get(),
        }
    }
}
