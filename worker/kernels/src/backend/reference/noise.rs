//! Noise on embeddings, made in host memory.

use candle_core::Tensor;

use crate::Result;
use crate::host;
use crate::types::dropout::DropoutKey;
use crate::types::sequences::Span;

pub(crate) fn add(x: &Tensor, alpha: f64, spans: &[Span], key: &DropoutKey) -> Result<Tensor> {
    let (m, d) = x.dims2()?;
    let mut noise = vec![0f32; m * d];
    for span in spans {
        let size = alpha / ((span.q.len() * d) as f64).sqrt();
        let key = DropoutKey {
            first_token: key.first_token + span.q.start as u64,
            ..*key
        };
        host::noise::add(
            &mut noise[span.q.start * d..span.q.end * d],
            d,
            size as f32,
            &key,
        );
    }
    x + Tensor::from_vec(noise, (m, d), x.device())?.to_dtype(x.dtype())?
}
