//! Speed of NF4 on one large matrix, on all threads: `cargo bench -p qlora-kernels`.
//!
//! Gigabytes a second count the bf16 matrix, 2 bytes an element, as peers count them. The best of
//! several runs, since a shared machine only ever makes a run slower.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Result, Term, backend};

const SHAPE: (usize, usize) = (4096, 14336);
const RUNS: usize = 5;

fn report(what: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{what:<34} {:6.2} GB/s",
        (SHAPE.0 * SHAPE.1 * 2) as f64 / best / 1e9
    );
    Ok(())
}

fn main() -> Result<()> {
    let values: Vec<f32> = (0..SHAPE.0 * SHAPE.1)
        .map(|i| ((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0)
        .collect();
    let weights = Tensor::from_vec(values, SHAPE, &Device::Cpu)?.to_dtype(DType::BF16)?;
    let cpu = backend::host();
    report("quantize, double", || {
        black_box(cpu.quantize(&weights, 64, true)?);
        Ok(())
    })?;
    let matrix = cpu.quantize(&weights, 64, true)?;
    drop(weights);
    report("dequantize to f32", || {
        black_box(cpu.dequantize(&matrix, DType::F32)?);
        Ok(())
    })?;
    // Unpacks each row once, and multiplies it as it lies.
    let row = Tensor::ones((1, SHAPE.1), DType::F32, &Device::Cpu)?.into();
    report("product with one row", || {
        black_box(cpu.matmul_forward(
            &[Term {
                x: &row,
                w: &matrix,
                scale: 1.0,
            }],
            None,
        )?);
        Ok(())
    })
}
