//! The simple block types of ggml to bf16: 32 elements with a scale of their own. The others go
//! through candle.

use half::f16;
use multiversion::multiversion;

use crate::host::bf16::round;

/// Elements of a block.
const BLOCK: usize = 32;

/// A block type that is unpacked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Scale, then 4-bit codes from which 8 is taken off.
    Q4_0,
    /// Scale and minimum, then 4-bit codes.
    Q4_1,
    /// Scale, then signed bytes.
    Q8_0,
}

impl Blocks {
    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }

    /// Writes `factor` times the elements of whole blocks as bits of bf16.
    pub fn unpack(self, bytes: &[u8], factor: f32, out: &mut [u16]) {
        for (block, out) in bytes
            .chunks_exact(self.bytes())
            .zip(out.chunks_exact_mut(BLOCK))
        {
            let number = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let mut values = [0f32; BLOCK];
            match self {
                Self::Q4_0 => nibbles(&block[2..], number(0), -8.0 * number(0), &mut values),
                Self::Q4_1 => nibbles(&block[4..], number(0), number(2), &mut values),
                Self::Q8_0 => {
                    let scale = number(0);
                    values
                        .iter_mut()
                        .zip(&block[2..])
                        .for_each(|(v, &q)| *v = f32::from(q as i8) * scale);
                }
            }
            round(&values, factor, out);
        }
    }
}

/// The low nibbles are the first half of the block, the high ones the second.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn nibbles(codes: &[u8], scale: f32, minimum: f32, values: &mut [f32; BLOCK]) {
    let (first, second) = values.split_at_mut(BLOCK / 2);
    for ((low, high), &code) in first.iter_mut().zip(second).zip(codes) {
        *low = f32::from(code & 15) * scale + minimum;
        *high = f32::from(code >> 4) * scale + minimum;
    }
}
