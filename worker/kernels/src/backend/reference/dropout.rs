//! Dropout whose mask is made in host memory.

use candle_core::Tensor;

use crate::Result;
use crate::host;
use crate::types::dropout::DropoutKey;

pub(crate) fn add(x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
    let (m, d) = x.dims2()?;
    let mut mask = vec![0f32; m * d];
    host::dropout::apply(&vec![1f32; m * d], d, key, None, &mut mask);
    let masked = (x * Tensor::from_vec(mask, (m, d), x.device())?.to_dtype(x.dtype())?)?;
    base.map_or(Ok(masked.clone()), |base| base + masked)
}
