//! What adapters of projections that share their input take from it, and their way back.
//!
//! Of each adapter: u = c (m o x) A^T, where m is its dropout mask and c = 1 / (1 - p), and back from du:
//! dA = c du^T (m o x), and c m o (du A) of dx. The reference form masks a copy of the input for each adapter; the fast form
//! on a GPU reads the input once for all of them.

use candle_core::Tensor;

use super::activations::Activations;
use super::dropout::{self, DropoutKey};
use super::product::{Products, Term};
use crate::Result;

/// The part of an adapter that reads the input.
#[derive(Clone, Copy)]
pub struct Lowering<'a> {
    /// A [R, K], in `f32`.
    pub a: &'a Tensor,
    /// None outside training.
    pub mask: Option<DropoutKey>,
}

/// u [M, R] of each adapter, for `x` [M, K].
pub fn forward(products: Products, x: &Activations, adapters: &[Lowering<'_>]) -> Result<Vec<Activations>> {
    #[cfg(feature = "cuda")]
    if products == Products::CublasLt && crate::cuda::lora::applies(x.tensor()?, adapters)? {
        return crate::cuda::lora::forward(x.tensor()?, adapters);
    }
    reference_forward(products, x, adapters)
}

/// [`forward`] of one adapter.
pub fn forward_one(products: Products, x: &Activations, adapter: &Lowering<'_>) -> Result<Activations> {
    match forward(products, x, std::slice::from_ref(adapter))?.pop() {
        Some(u) => Ok(u),
        None => candle_core::bail!("an adapter leaves nothing"),
    }
}

/// [`forward`] an adapter at a time.
pub fn reference_forward(products: Products, x: &Activations, adapters: &[Lowering<'_>]) -> Result<Vec<Activations>> {
    let one = |adapter: &Lowering<'_>| {
        let dropped = dropped(x, adapter)?;
        let term = Term { x: dropped.as_ref().unwrap_or(x), w: adapter.a, scale: 1.0 };
        Ok(products.forward(&[term], None)?.into())
    };
    adapters.iter().map(one).collect()
}

/// dA [R, K] of each adapter in `f32`, from its du [M, R]; and the sum of c m o (du A) [M, K] over those with a mask. The
/// others' du A goes into dx as a product.
pub fn backward(
    products: Products,
    x: &Activations,
    adapters: &[(Lowering<'_>, &Activations)],
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if products == Products::CublasLt {
        let lowerings: Vec<_> = adapters.iter().map(|adapter| adapter.0).collect();
        let masked = lowerings.iter().all(|lowering| lowering.mask.is_some());
        if masked && crate::cuda::lora::applies(x.tensor()?, &lowerings)? {
            return crate::cuda::lora::backward(x.tensor()?, adapters);
        }
    }
    reference_backward(products, x, adapters)
}

/// [`backward`] an adapter at a time.
pub fn reference_backward(
    products: Products,
    x: &Activations,
    adapters: &[(Lowering<'_>, &Activations)],
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let (mut grads, mut sum) = (Vec::with_capacity(adapters.len()), None);
    for (adapter, du) in adapters {
        grads.push(gradient(products, x, adapter, du)?);
        if let Some(key) = &adapter.mask {
            let through = products.backward(&[Term { x: du, w: adapter.a, scale: 1.0 }], None)?;
            sum = Some(dropout::add(&through, key, sum.as_ref())?);
        }
    }
    Ok((grads, sum))
}

/// dA [R, K] of one adapter.
pub fn gradient(products: Products, x: &Activations, adapter: &Lowering<'_>, du: &Activations) -> Result<Tensor> {
    let dropped = dropped(x, adapter)?;
    products.outer(du, dropped.as_ref().unwrap_or(x), 1.0)
}

/// `x` after the adapter's mask; none where there is no mask.
fn dropped(x: &Activations, adapter: &Lowering<'_>) -> Result<Option<Activations>> {
    adapter.mask.as_ref().map(|key| dropout::apply(x, key)).transpose()
}
