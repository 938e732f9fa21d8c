//! Backends, seeded values, and how results are compared.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::on_instructions;
use qlora_kernels::types::options::{Compute, Options};
use qlora_kernels::{Backend, Instructions, Result, backend};
use qlora_testkit::tensors::{largest_difference, uniform};

/// The CPU with products in `f32`.
pub fn cpu() -> Arc<dyn Backend> {
    backend::open(
        &Device::Cpu,
        &Options {
            compute: Compute::F32,
            ..Options::default()
        },
    )
    .expect("a CPU")
}

pub fn reference() -> Arc<dyn Backend> {
    backend::reference(&Device::Cpu, DType::F32)
}

/// The CPU with products in bf16, on `instructions`.
pub fn on(instructions: Instructions) -> Arc<dyn Backend> {
    on_instructions(instructions).expect("what the CPU has")
}

/// The CPU with products in bf16, on everything that it has.
pub fn in_bf16() -> impl Iterator<Item = (Instructions, Arc<dyn Backend>)> {
    let every = crate::instructions::every().into_iter();
    every.map(|instructions| (instructions, on(instructions)))
}

pub fn random(shape: (usize, usize), seed: u64) -> Result<Tensor> {
    let values = uniform(seed).map(|value| value as f32);
    let values: Vec<f32> = values.take(shape.0 * shape.1).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

#[track_caller]
pub fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
    let d = largest_difference(a, b);
    assert!(d <= tolerance, "largest difference {d} above {tolerance}");
}

/// Relative distance of two matrices: largest difference over largest value.
pub fn relative(a: &Tensor, b: &Tensor) -> f32 {
    let top = b
        .abs()
        .and_then(|b| b.flatten_all()?.max(0)?.to_scalar::<f32>())
        .expect("a largest value");
    largest_difference(a, b) / top
}

pub fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}
