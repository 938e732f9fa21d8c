//! Rows picked out of a matrix and put back, sums of gradients, and gradients in one piece.

use candle_core::{DType, Tensor};

use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// The rows `ids` [L] of `table` [V, D].
pub fn gather(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[table]) {
        return cuda::rows::gather(table, ids);
    }
    table.index_select(ids, 0)
}

/// A matrix of `m` rows, zero but for its rows `ids` [L], which are those of `rows` [L, D]; no id comes twice.
pub fn scatter(rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[rows]) {
        return cuda::rows::scatter(rows, ids, m);
    }
    Tensor::zeros((m, rows.dim(1)?), rows.dtype(), rows.device())?.index_add(ids, rows, 0)
}

/// The rows of `a` [M, D] and then those of `b` [N, D].
pub fn append(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[a, b]) {
        return cuda::rows::append(a, b);
    }
    Tensor::cat(&[a, b], 0)
}

/// The columns of `a` [M, K] in bf16, those of `b` [M, R] times `scale`, and zeros up to a multiple of 8, all rounded to
/// bf16; on a GPU.
#[cfg(feature = "cuda")]
pub(crate) fn join_columns(a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    cuda::rows::join_columns(a, b, scale)
}

/// `a` + `b`, of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[a, b]) || cuda::adamw::applies(&[a, b]) {
        return cuda::rows::add(a, b);
    }
    a + b
}

/// All numbers of `tensors`, in `f32`, one after another, and zeros up to `length`.
pub fn join(tensors: &[&Tensor], length: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::adamw::applies(tensors) {
        return cuda::rows::join(tensors, length);
    }
    let flat = tensors.iter().map(|t| t.flatten_all()).collect::<Result<Vec<_>>>()?;
    let all = Tensor::cat(&flat, 0)?;
    let n = all.elem_count();
    all.pad_with_zeros(0, 0, length.saturating_sub(n))
}

/// `x` as `dtype`.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.dtype() == DType::F32 && dtype == DType::BF16 && x.is_contiguous() {
        return cuda::rows::to_bf16(x);
    }
    x.to_dtype(dtype)
}
