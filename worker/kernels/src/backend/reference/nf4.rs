//! NF4 back to floats in candle's operations.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::host::nf4::{self, NESTED_BLOCK};
use crate::types::nf4::{Nf4Scales, Nf4Tensor};

pub(crate) fn dequantize(matrix: &Nf4Tensor, dtype: DType) -> Result<Tensor> {
    let table = Tensor::new(&nf4::byte_table(), matrix.packed().device())?;
    let ((rows, cols), block) = (matrix.dims(), matrix.block());
    let (elements, blocks) = (rows * cols, (rows * cols).div_ceil(block));
    let values = look_up(&table, matrix.packed())?.flatten_all()?;
    let padded = pad(&values.narrow(0, 0, elements)?, blocks * block)?;
    let scaled = padded
        .reshape((blocks, block))?
        .broadcast_mul(&absmax(matrix.scales())?.reshape((blocks, 1))?)?;
    scaled
        .flatten_all()?
        .narrow(0, 0, elements)?
        .reshape((rows, cols))?
        .to_dtype(dtype)
}

/// First-level scales [blocks].
fn absmax(scales: &Nf4Scales) -> Result<Tensor> {
    match scales {
        Nf4Scales::Plain(absmax) => Ok(absmax.clone()),
        Nf4Scales::Nested {
            codes,
            absmax,
            offset,
        } => {
            let (blocks, groups) = (codes.elem_count(), absmax.elem_count());
            let values = look_up(&Tensor::new(nf4::dynamic_table(), codes.device())?, codes)?;
            let grid = pad(&values, groups * NESTED_BLOCK)?.reshape((groups, NESTED_BLOCK))?;
            let scaled = grid
                .broadcast_mul(&absmax.reshape((groups, 1))?)?
                .flatten_all()?
                .narrow(0, 0, blocks)?;
            scaled + f64::from(*offset)
        }
    }
}

/// Rows of `table` by bytes. candle reads the byte 255 as "no row" and gives zeros, hence the wider
/// indices.
fn look_up(table: &Tensor, bytes: &Tensor) -> Result<Tensor> {
    table.index_select(&bytes.to_dtype(DType::U32)?, 0)
}

fn pad(x: &Tensor, to: usize) -> Result<Tensor> {
    let missing = to - x.elem_count();
    if missing == 0 {
        Ok(x.clone())
    } else {
        x.pad_with_zeros(0, 0, missing)
    }
}
