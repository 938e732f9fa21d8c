//! Noise on embeddings while training (NEFTune, Jain et al., 2023): uniform in plus or minus alpha / sqrt(T D), where T
//! is the length of the sequence. It is a function of the same key as dropout, so a resumed run draws it again.

use candle_core::Tensor;

use super::dropout::DropoutKey;
use super::sequences::Span;
use crate::Result;
use crate::cpu;

/// `x` [M, D] with noise, sequence by sequence.
pub fn add(x: &Tensor, alpha: f64, spans: &[Span], key: &DropoutKey) -> Result<Tensor> {
    let (m, d) = x.dims2()?;
    let mut noise = vec![0f32; m * d];
    for span in spans {
        let size = alpha / ((span.q.len() * d) as f64).sqrt();
        let key = DropoutKey { first_token: key.first_token + span.q.start as u64, ..*key };
        cpu::noise::add(&mut noise[span.q.start * d..span.q.end * d], d, size as f32, &key);
    }
    x + Tensor::from_vec(noise, (m, d), x.device())?.to_dtype(x.dtype())?
}
