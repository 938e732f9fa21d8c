//! Quantizes a matrix to NF4, multiplies with it, and compares the result with the exact one.
//!
//! ```sh
//! cargo run --release -p qlora-kernels --example nf4_matmul
//! ```

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Result, Term, backend};

const ROWS: usize = 512;
const COLUMNS: usize = 1024;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let weights = Tensor::from_vec(values((ROWS * COLUMNS) as u32, 7), (ROWS, COLUMNS), &device)?;
    let x = Tensor::from_vec(
        values(4 * COLUMNS as u32, 0x5bd1_e995),
        (4, COLUMNS),
        &device,
    )?;
    let cpu = backend::host();
    // Blocks of 64 weights share a scale, and the scales are quantized too.
    let quantized = cpu.quantize(&weights.to_dtype(DType::BF16)?, 64, true)?;
    println!(
        "{ROWS} x {COLUMNS}: {} bytes in f32, {} in NF4",
        ROWS * COLUMNS * 4,
        quantized.bytes()
    );
    let product = cpu.matmul_forward(
        &[Term {
            x: &x.clone().into(),
            w: &quantized,
            scale: 1.0,
        }],
        None,
    )?;
    let exact = x.matmul(&weights.t()?)?;
    println!("x w^T: {:?}", product.dims());
    let difference = (product.to_dtype(DType::F32)? - &exact)?;
    let relative = norm(&difference)? / norm(&exact)?;
    println!("relative error of the product: {relative:.3}");
    Ok(())
}

/// Repeatable numbers from -1 to 1, scattered by a hash of their index.
fn values(n: u32, seed: u32) -> Vec<f32> {
    let scattered = |i: u32| {
        let h = (i ^ seed).wrapping_mul(0x9e37_79b9);
        (h ^ (h >> 15)).wrapping_mul(0x85eb_ca6b) >> 8
    };
    (0..n)
        .map(|i| scattered(i) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn norm(tensor: &Tensor) -> Result<f32> {
    tensor.sqr()?.sum_all()?.to_scalar::<f32>().map(f32::sqrt)
}
