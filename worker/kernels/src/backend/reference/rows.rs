//! Rows picked out of a matrix and put back, and gradients in one piece, in candle's operations.

use candle_core::Tensor;

use crate::Result;

pub(crate) fn gather(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    table.index_select(ids, 0)
}

pub(crate) fn scatter(rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor> {
    Tensor::zeros((m, rows.dim(1)?), rows.dtype(), rows.device())?.index_add(ids, rows, 0)
}

pub(crate) fn append(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[a, b], 0)
}

pub(crate) fn split_columns(x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let part = |&width: &usize| {
        start += width;
        x.narrow(1, start - width, width)?.contiguous()
    };
    widths.iter().map(part).collect()
}

pub(crate) fn join_columns(parts: &[&Tensor]) -> Result<Tensor> {
    Tensor::cat(parts, 1)?.contiguous()
}

pub(crate) fn affine(x: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let scaled = if scale == 1.0 {
        x.clone()
    } else {
        (x * scale)?
    };
    bias.map_or(Ok(scaled.clone()), |bias| scaled.broadcast_add(bias))
}

pub(crate) fn concat(tensors: &[&Tensor]) -> Result<Tensor> {
    let flat = tensors
        .iter()
        .map(|t| t.flatten_all())
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}
