//! NF4 on slices: quantization as bitsandbytes' CPU path has it, and dequantization of whole
//! blocks.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::Result;
use crate::host::dynamic8;
use crate::host::nf4_tables::{NF4, NF4_MIDPOINTS};
pub use crate::types::nf4::NestedScales;
use crate::types::nf4::{Nf4Scales, Nf4Tensor};

/// Second-level blocks hold this many first-level scales.
pub const NESTED_BLOCK: usize = dynamic8::BLOCK;

/// bitsandbytes' CPU path never divides by less.
const SMALLEST_SCALE: f32 = 1e-38;

/// Codes and first-level scales of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Element 2i in the high nibble of byte i, element 2i + 1 in the low one.
    pub packed: Vec<u8>,
    /// Largest magnitude of each block.
    pub absmax: Vec<f32>,
}

/// Quantizes `weights` in blocks of `block` elements that run over the flattened matrix.
///
/// A full block is multiplied by 1 / absmax and a partial last block divided by absmax, as
/// bitsandbytes does on the CPU; scales below 1e-38 are taken for that, so a zero block gets code
/// 7, with scale 0, or 1e-38 where it is partial.
pub fn quantize<T: Copy + Into<f32> + Sync>(weights: &[T], block: usize) -> Quantized {
    let mut packed = vec![0u8; weights.len().div_ceil(2)];
    let absmax = packed
        .par_chunks_mut(block / 2)
        .zip(weights.par_chunks(block))
        .map_with(Vec::with_capacity(block), |values, (bytes, weights)| {
            values.clear();
            values.extend(weights.iter().map(|&w| w.into()));
            quantize_block(values, bytes, block)
        })
        .collect();
    Quantized { packed, absmax }
}

fn quantize_block(values: &[f32], bytes: &mut [u8], block: usize) -> f32 {
    let absmax = values.iter().fold(0f32, |a, v| a.max(v.abs()));
    let partial = values.len() < block;
    let absmax = if partial {
        absmax.max(SMALLEST_SCALE)
    } else {
        absmax
    };
    let inverse = 1.0 / absmax.max(SMALLEST_SCALE);
    for (bytes, values) in bytes.chunks_mut(RUN / 2).zip(values.chunks(RUN)) {
        // A nibble that pads an odd end stands for zero.
        let mut normal = [0f32; RUN];
        for (normal, &v) in normal.iter_mut().zip(values) {
            *normal = if partial { v / absmax } else { v * inverse };
        }
        let codes = codes_of(&normal);
        for (byte, pair) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
    }
    absmax
}

/// Elements whose codes are found side by side.
const RUN: usize = 64;

/// The codes whose values are nearest; a midpoint takes the lower code.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn codes_of(xs: &[f32; RUN]) -> [u32; RUN] {
    let mut codes = [0u32; RUN];
    for midpoint in NF4_MIDPOINTS {
        for (code, &x) in codes.iter_mut().zip(xs) {
            *code += u32::from(x > midpoint);
        }
    }
    codes
}

/// Quantizes first-level scales to 8 bits in blocks of [`NESTED_BLOCK`], as bitsandbytes' CPU path
/// does.
pub fn nest(absmax: &[f32]) -> NestedScales {
    let offset = cascade_sum(absmax) / absmax.len().max(1) as f32;
    let centered: Vec<f32> = absmax.iter().map(|v| v - offset).collect();
    let mut codes = vec![0u8; absmax.len()];
    let blocks = centered
        .par_chunks(NESTED_BLOCK)
        .zip(codes.par_chunks_mut(NESTED_BLOCK));
    let scales = blocks
        .map(|(block, codes)| dynamic8::SIGNED.quantize(block, codes))
        .collect();
    NestedScales {
        codes,
        absmax: scales,
        offset,
    }
}

/// Sum in the order of PyTorch's `sum` on one thread of a CPU with AVX2 or better, because
/// the mean of the scales is part of what bitsandbytes writes: eight lanes, four rows of them side
/// by side, and four levels of partial sums (`aten/src/ATen/native/cpu/SumKernel.cpp`, cascade
/// summation).
fn cascade_sum(xs: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    let (vectors, rest) = xs.as_chunks::<LANES>();
    let (groups, single) = vectors.as_chunks::<ROWS>();
    let mut sums = cascade(groups);
    for vector in single {
        add(&mut sums[0], vector);
    }
    for row in 1..ROWS {
        let other = sums[row];
        add(&mut sums[0], &other);
    }
    let tail = rest.iter().fold(0f32, |a, x| a + x);
    sums[0].iter().fold(tail, |a, x| a + x)
}

fn add<const N: usize>(sums: &mut [f32; N], other: &[f32; N]) {
    sums.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
}

/// Element-wise sum of `groups` over four levels: a level is added to the next when it holds enough
/// terms.
fn cascade<const N: usize, const ROWS: usize>(groups: &[[[f32; N]; ROWS]]) -> [[f32; N]; ROWS] {
    const LEVELS: usize = 4;
    let log = groups.len().next_power_of_two().trailing_zeros() as usize;
    let power = (log / LEVELS).max(4);
    let mut levels = [[[0f32; N]; ROWS]; LEVELS];
    let mut done = 0;
    for chunk in groups.chunks(1 << power) {
        for group in chunk {
            levels[0]
                .iter_mut()
                .zip(group)
                .for_each(|(sum, x)| add(sum, x));
        }
        done += chunk.len();
        if chunk.len() < 1 << power {
            break;
        }
        for level in 1..LEVELS {
            let lower = std::mem::replace(&mut levels[level - 1], [[0.0; N]; ROWS]);
            levels[level]
                .iter_mut()
                .zip(&lower)
                .for_each(|(sum, x)| add(sum, x));
            if done >> (level * power) & ((1 << power) - 1) != 0 {
                break;
            }
        }
    }
    let [mut total, upper @ ..] = levels;
    for level in &upper {
        total.iter_mut().zip(level).for_each(|(sum, x)| add(sum, x));
    }
    total
}

/// The first-level scales that `nested` stands for.
pub fn unnest(nested: &NestedScales) -> Vec<f32> {
    let values = dynamic_table();
    let value = |(i, &code): (usize, &u8)| {
        values[code as usize] * nested.absmax[i / NESTED_BLOCK] + nested.offset
    };
    nested.codes.iter().enumerate().map(value).collect()
}

/// The two values of every byte, high nibble first.
pub fn byte_table() -> [[f32; 2]; 256] {
    std::array::from_fn(|byte| [NF4[byte >> 4], NF4[byte & 15]])
}

/// The values of the sixteen codes.
pub fn table() -> &'static [f32; 16] {
    &NF4
}

/// The 8-bit map of the second level.
pub fn dynamic_table() -> &'static [f32; 256] {
    &dynamic8::SIGNED.values
}

/// Half way between neighboring codes of NF4: one that lies there takes the lower code.
pub fn midpoints() -> &'static [f32; 15] {
    &NF4_MIDPOINTS
}

/// Writes `out.len()` elements of the flattened matrix: value x scale, in `f32`.
pub fn dequantize(packed: &[u8], absmax: &[f32], block: usize, out: &mut [f32]) {
    let table = byte_table();
    out.par_chunks_mut(block * 64)
        .enumerate()
        .for_each(|(task, out)| {
            for (i, values) in out.chunks_mut(block).enumerate() {
                let index = task * 64 + i;
                let bytes = &packed[index * block / 2..][..values.len().div_ceil(2)];
                dequantize_block(&table, bytes, absmax[index], values);
            }
        });
}

fn dequantize_block(table: &[[f32; 2]; 256], bytes: &[u8], scale: f32, values: &mut [f32]) {
    let (pairs, rest) = values.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(bytes) {
        let [high, low] = table[byte as usize];
        *pair = [high * scale, low * scale];
    }
    if let ([last], Some(&byte)) = (rest, bytes.last()) {
        *last = table[byte as usize][0] * scale;
    }
}

/// Quantizes a matrix of floats in host memory, without a copy of it in `f32`, and puts the codes
/// on `device`.
///
/// # Errors
/// The matrix is not in host memory, in pieces, or not of floats.
pub fn quantize_matrix(
    matrix: &Tensor,
    block: usize,
    double: bool,
    device: &Device,
) -> Result<Nf4Tensor> {
    let (storage, layout) = matrix.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("matrix is not contiguous")
    };
    let quantized = match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => quantize(&data[start..end], block),
        Storage::Cpu(CpuStorage::BF16(data)) => quantize(&data[start..end], block),
        Storage::Cpu(CpuStorage::F16(data)) => quantize(&data[start..end], block),
        _ => candle_core::bail!(
            "{:?} on {:?} cannot be quantized",
            matrix.dtype(),
            matrix.device()
        ),
    };
    let scales = if double {
        nest(&quantized.absmax).to_device(device)?
    } else {
        let blocks = quantized.absmax.len();
        Nf4Scales::Plain(Tensor::from_vec(quantized.absmax, blocks, device)?)
    };
    Nf4Tensor::from_parts(quantized.packed, scales, matrix.dims2()?, block, device)
}

/// First-level scales [blocks] of a matrix in host memory.
pub(crate) fn absmax(scales: &Nf4Scales) -> Result<Vec<f32>> {
    match scales {
        Nf4Scales::Plain(absmax) => absmax.to_vec1(),
        Nf4Scales::Nested {
            codes,
            absmax,
            offset,
        } => {
            let (codes, absmax) = (codes.to_vec1()?, absmax.to_vec1()?);
            Ok(unnest(&NestedScales {
                codes,
                absmax,
                offset: *offset,
            }))
        }
    }
}
