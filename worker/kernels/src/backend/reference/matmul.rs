//! Products in candle's operations, with matrices in the element type of the activations.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::backend::reference::nf4;
use crate::types::activations::Activations;
use crate::types::matmul::Term;
use crate::types::matrix::{Matrix, Stored};

pub(crate) fn dequantize(matrix: &dyn Matrix, dtype: DType) -> Result<Tensor> {
    match matrix.stored() {
        Stored::Floats(tensor) => tensor.to_dtype(dtype),
        Stored::Activations(rows) => rows.tensor()?.to_dtype(dtype),
        Stored::Nf4(matrix) => nf4::dequantize(matrix, dtype),
        Stored::Blocks(blocks) => blocks.dequantize(dtype),
    }
}

/// How a caller dequantizes.
type Dequantize<'a> = &'a dyn Fn(&dyn Matrix, DType) -> Result<Tensor>;

pub(crate) fn forward(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    dequantize: Dequantize<'_>,
) -> Result<Tensor> {
    sum(terms, base, |x, w| {
        x.matmul(&dequantize(w, x.dtype())?.t()?)
    })
}

pub(crate) fn backward(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    dequantize: Dequantize<'_>,
) -> Result<Tensor> {
    sum(terms, base, |x, w| x.matmul(&dequantize(w, x.dtype())?))
}

fn sum(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    product: impl Fn(&Tensor, &dyn Matrix) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut total = base.cloned();
    for term in terms {
        let part = product(term.x.tensor()?, term.w)?;
        let part = if term.scale == 1.0 {
            part
        } else {
            (part * term.scale)?
        };
        total = Some(match total {
            None => part,
            Some(total) => (total + part)?,
        });
    }
    total.ok_or_else(|| candle_core::Error::Msg("no terms to multiply".into()))
}

/// A gradient of weights as a product that `backward` makes; the narrower of the two is transposed.
pub(crate) fn weight_gradient(
    a: &Activations,
    b: &Activations,
    scale: f64,
    backward: &dyn Fn(&[Term<'_>]) -> Result<Tensor>,
) -> Result<Tensor> {
    if a.dims2()?.1 > b.dims2()?.1 {
        return weight_gradient(b, a, scale, backward)?.t()?.contiguous();
    }
    let transposed = a.tensor()?.t()?.contiguous()?.into();
    backward(&[Term {
        x: &transposed,
        w: b,
        scale,
    }])?
    .to_dtype(DType::F32)
}
