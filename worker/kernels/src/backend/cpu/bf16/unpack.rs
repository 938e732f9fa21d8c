//! NF4 codes to bf16, straight from the packed matrix.

use std::ops::Range;

use multiversion::multiversion;

#[cfg(target_arch = "x86_64")]
use crate::host::bf16::has_avx512_bf16;
use crate::host::bf16::to_bf16;
use crate::host::nf4_tables::NF4;

/// Elements that share a scale at least, when a range starts at a multiple of it.
pub(crate) const RUN: usize = 32;

/// Writes the elements `range` of the flattened matrix; `scale` gives the scale of a block of
/// `block` elements.
pub(crate) fn nf4(
    packed: &[u8],
    block: usize,
    scale: impl Fn(usize) -> f32,
    range: Range<usize>,
    out: &mut [u16],
) {
    if range.start.is_multiple_of(RUN) && block.is_multiple_of(RUN) {
        for (i, out) in out[..range.len()].chunks_mut(RUN).enumerate() {
            let start = range.start + i * RUN;
            run(
                &packed[start / 2..][..out.len().div_ceil(2)],
                scale(start / block),
                out,
            );
        }
    } else {
        for (out, i) in out.iter_mut().zip(range) {
            let byte = packed[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *out = to_bf16(NF4[usize::from(code)] * scale(i / block));
        }
    }
}

/// Up to 32 elements of one block.
fn run(bytes: &[u8], scale: f32, out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if let (Ok(bytes), Ok(out)) = (bytes.try_into(), <&mut [u16; RUN]>::try_from(&mut *out))
        && has_avx512_bf16()
    {
        // SAFETY: the instructions are there.
        return unsafe { x86::run(bytes, scale, out) };
    }
    plain(bytes, scale, out);
}

#[multiversion(targets("x86_64+avx2"))]
fn plain(bytes: &[u8], scale: f32, out: &mut [u16]) {
    let mut values = [0u16; 16];
    for (value, code) in values.iter_mut().zip(NF4) {
        *value = to_bf16(code * scale);
    }
    for (pair, byte) in out.chunks_mut(2).zip(bytes) {
        pair[0] = values[usize::from(byte >> 4)];
        if let Some(low) = pair.get_mut(1) {
            *low = values[usize::from(byte & 15)];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_castsi256_si128,
        _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_or_si256, _mm256_set1_epi16,
        _mm256_slli_epi16, _mm256_srli_epi16, _mm512_cvtepu8_epi32, _mm512_cvtne2ps_pbh,
        _mm512_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_storeu_si512,
    };

    use super::{NF4, RUN};

    /// The sixteen values lie in one register, so a look-up is one permutation.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2")]
    pub(super) unsafe fn run(bytes: &[u8; RUN / 2], scale: f32, out: &mut [u16; RUN]) {
        // SAFETY: loads and stores cover exactly the arrays.
        unsafe {
            let wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
            let low = _mm256_and_si256(wide, _mm256_set1_epi16(15));
            // The even element is in the high nibble, and the low byte of a pair comes first.
            let codes = _mm256_or_si256(_mm256_srli_epi16::<4>(wide), _mm256_slli_epi16::<8>(low));
            let table = _mm512_loadu_ps(NF4.as_ptr());
            let scale = _mm512_set1_ps(scale);
            let value = |codes: __m128i| {
                _mm512_mul_ps(
                    _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), table),
                    scale,
                )
            };
            let first = value(_mm256_castsi256_si128(codes));
            let second = value(_mm256_extracti128_si256::<1>(codes));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
        }
    }
}
