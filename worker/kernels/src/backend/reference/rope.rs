//! Rotary embedding in candle's operations.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::types::rope::RopeTable;
use crate::types::sequences::Sequences;

pub(crate) fn forward(table: &RopeTable, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
    rotate(table, x, sequences, Ok)
}

pub(crate) fn backward(table: &RopeTable, dy: &Tensor, sequences: &Sequences) -> Result<Tensor> {
    rotate(table, dy, sequences, |sin| sin.neg())
}

fn rotate(
    table: &RopeTable,
    x: &Tensor,
    sequences: &Sequences,
    turn: impl FnOnce(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (m, width) = x.dims2()?;
    let (half, heads) = (table.pairs()?, width / table.head_dim);
    let rest = table.head_dim - 2 * half;
    let rows = Tensor::new(sequences.positions(), x.device())?;
    let pick = |t: &Tensor| t.index_select(&rows, 0)?.reshape((m, 1, half));
    let (cos, sin) = (pick(&table.cos)?, turn(pick(&table.sin)?)?);
    let whole = x
        .to_dtype(DType::F32)?
        .reshape((m, heads, table.head_dim))?;
    let pairs = whole
        .narrow(2, 0, 2 * half)?
        .contiguous()?
        .reshape((m, heads, 2, half))?;
    let (a, b) = (
        pairs.narrow(2, 0, 1)?.squeeze(2)?,
        pairs.narrow(2, 1, 1)?.squeeze(2)?,
    );
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let mut parts = vec![first, second];
    if rest > 0 {
        parts.push(whole.narrow(2, 2 * half, rest)?);
    }
    Tensor::cat(&parts, 2)?
        .reshape((m, width))?
        .to_dtype(x.dtype())
}
