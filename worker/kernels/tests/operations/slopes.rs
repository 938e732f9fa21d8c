//! Gradients against numerical differences of the forward pass.

use candle_core::{DType, Tensor};
use qlora_kernels::Result;

use crate::fixture::{Mat, Subject};

/// The derivative of sum(f(x) * dy) by central differences in f64 sums, along `direction`.
fn slope(
    f: impl Fn(&Tensor) -> Result<Tensor>,
    x: &Tensor,
    direction: &Tensor,
    dy: &Tensor,
) -> Result<f64> {
    let h = 1e-2;
    let at = |sign: f64| -> Result<f64> {
        let y = (f(&(x + (direction * (sign * h))?)?)? * dy)?.to_dtype(DType::F64)?;
        y.sum_all()?.to_scalar::<f64>()
    };
    Ok((at(1.0)? - at(-1.0)?) / (2.0 * h))
}

/// `grad` is the gradient of sum(f(x) * dy), where all is in `f32`: differences of what is rounded
/// to bf16 say nothing.
pub fn gradient_matches(
    subject: &Subject,
    f: impl Fn(&Tensor) -> Result<Tensor>,
    x: &Tensor,
    grad: &Tensor,
    dy: &Tensor,
) -> Result<()> {
    if !subject.is_in_f32() {
        return Ok(());
    }
    let (m, n) = x.dims2()?;
    for seed in 100..104 {
        let direction = Mat::random(m, n, seed, 1.0).floats();
        let numeric = slope(&f, x, &direction, dy)?;
        let product = (grad * &direction)?.to_dtype(DType::F64)?;
        let analytic = product.sum_all()?.to_scalar::<f64>()?;
        let tolerance = 2e-3 * (1.0 + numeric.abs());
        assert!(
            (numeric - analytic).abs() < tolerance,
            "on {}: numeric {numeric}, analytic {analytic}",
            subject.name
        );
    }
    Ok(())
}
