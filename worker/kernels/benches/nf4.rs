//! Speed of NF4 on one large matrix: `cargo bench -p qlora-kernels`.
//!
//! Gigabytes a second count the bf16 matrix, 2 bytes an element, as peers count them. The best of several runs, since a
//! shared machine only ever makes a run slower.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Matrix, Nf4Tensor, Result};

const SHAPE: (usize, usize) = (4096, 14336);
const RUNS: usize = 5;

fn report(what: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what:<34} {:6.2} GB/s", (SHAPE.0 * SHAPE.1 * 2) as f64 / best / 1e9);
    Ok(())
}

/// Unpacks the whole matrix strip by strip on one thread, as a task of a product does with its part.
fn unpack(matrix: &Nf4Tensor, scratch: &mut [u16]) -> Result<()> {
    let strips = matrix.strips(1.0)?.ok_or_else(|| candle_core::Error::Msg("the matrix is not on the cpu".into()))?;
    for start in (0..SHAPE.0).step_by(32) {
        strips.unpack(start..start + 32, 0..SHAPE.1, scratch, SHAPE.1);
    }
    black_box(scratch);
    Ok(())
}

fn main() -> Result<()> {
    let values: Vec<f32> = (0..SHAPE.0 * SHAPE.1).map(|i| ((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect();
    let weights = Tensor::from_vec(values, SHAPE, &Device::Cpu)?.to_dtype(DType::BF16)?;
    report("quantise, double, all threads", || {
        black_box(Nf4Tensor::quantise_matrix(&weights, 64, true, &Device::Cpu)?);
        Ok(())
    })?;
    let matrix = Nf4Tensor::quantise_matrix(&weights, 64, true, &Device::Cpu)?;
    drop(weights);
    report("dequantise to f32, all threads", || {
        black_box(matrix.dequantise(DType::F32)?);
        Ok(())
    })?;
    let mut scratch = vec![0u16; 32 * SHAPE.1];
    report("unpack to bf16 strips, one thread", || unpack(&matrix, &mut scratch))
}
