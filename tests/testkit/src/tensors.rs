//! Values for tests, and how far tensors are apart.

use candle_core::{DType, Device, Tensor};

/// Seeded values, uniform in about -1 to 1, in steps of 2^-23.
pub fn uniform(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    })
}

/// `n` values spread over -1 to 1, which come again after `period`, an odd number: no two
/// neighbors are close.
pub fn spread(n: usize, seed: usize, period: usize) -> Vec<f32> {
    let half = (period / 2) as f32;
    (0..n)
        .map(|i| ((i * 7919 + seed * 104_729) % period) as f32 / half - 1.0)
        .collect()
}

/// The elements of a tensor on any device.
///
/// # Panics
/// They cannot be copied.
pub fn elements(tensor: &Tensor) -> Vec<f32> {
    let elements = |t: &Tensor| {
        t.to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()
    };
    elements(tensor).expect("elements")
}

/// The largest difference of two elements, in `f32`.
///
/// # Panics
/// The shapes differ.
#[track_caller]
pub fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = |a: &Tensor, b: &Tensor| {
        (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?
            .abs()?
            .flatten_all()?
            .max(0)?
            .to_scalar::<f32>()
    };
    difference(a, b).expect("comparable tensors")
}
