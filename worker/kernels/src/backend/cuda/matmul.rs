//! Products of bf16 matrices with sums in `f32`, by cuBLASLt. The base of a sum is the product's
//! third operand, so that adding costs no pass of its own.

use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublaslt::result;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaDevice, DType, Tensor};

use super::buffer::{address, device_of, unwritten};
use super::gpu::Gpu;
use super::plans::{Key, Kind, WORKSPACE, fault};
use super::rows;
use crate::Result;
use crate::types::matmul::Term;
use crate::types::matrix::Matrix;

/// How a caller dequantizes.
type Dequantize<'a> = &'a dyn Fn(&dyn Matrix, DType) -> Result<Tensor>;

/// `base` plus the sum of `scale x w^T` as one product: [x | u] [W | s B]^T for a matrix and its
/// adapter.
///
/// So all is summed before anything is rounded. cuBLASLt rounds a product to the type of its result
/// before it adds its third operand (seen on an H200, CUDA 13.0): added one to another, what an
/// adapter gives in its first steps would vanish beside the other product, whichever comes first.
pub(super) fn forward(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    dequantize: Dequantize<'_>,
) -> Result<Tensor> {
    let Some((first, rest)) = terms.split_first() else {
        candle_core::bail!("no terms to multiply")
    };
    let (mut x, mut w) = (
        rows::to_bf16(first.x.tensor()?)?,
        dequantize(first.w, DType::BF16)?,
    );
    for term in rest {
        // Both get as many zeros behind them, so that rows stay whole for cuBLASLt's fast kernels.
        x = rows::join_columns(&x, term.x.tensor()?, 1.0)?;
        w = rows::join_columns(
            &w,
            &dequantize(term.w, DType::F32)?,
            (term.scale / first.scale) as f32,
        )?;
    }
    let onto = base.map_or(Onto::Nothing, Onto::Base);
    product(Kind::Forward, &x, &w, first.scale as f32, onto, DType::BF16)
}

/// `base` plus the sum of `scale x w`: every product is added to what is there, in place, and
/// rounded; those with the shortest sums, of adapters, come first. `prefetch` hears of the matrix
/// of the product after the next.
pub(super) fn backward(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    dequantize: Dequantize<'_>,
    prefetch: &dyn Fn(&dyn Matrix) -> Result<()>,
) -> Result<Tensor> {
    let mut order: Vec<&Term<'_>> = terms.iter().collect();
    order.sort_by_key(|term| term.w.shape().0);
    let mut total: Option<Tensor> = None;
    for (i, term) in order.iter().enumerate() {
        let (x, w) = (
            rows::to_bf16(term.x.tensor()?)?,
            dequantize(term.w, DType::BF16)?,
        );
        let onto = match (total.take(), base) {
            (Some(own), _) => Onto::Own(own),
            (None, Some(base)) => Onto::Base(base),
            (None, None) => Onto::Nothing,
        };
        if let Some(next) = order.get(i + 1) {
            prefetch(next.w)?;
        }
        total = Some(product(
            Kind::Backward,
            &x,
            &w,
            term.scale as f32,
            onto,
            DType::BF16,
        )?);
    }
    total.ok_or_else(|| candle_core::Error::Msg("no terms to multiply".into()))
}

/// What a product is added to.
pub(super) enum Onto<'a> {
    Nothing,
    Base(&'a Tensor),
    /// A result that nothing else holds: it is written over.
    Own(Tensor),
    /// Nothing, and the result goes to this place, whatever is there.
    At(Tensor),
}

/// The base plus `scale` times the product of `a` and `b`, both in bf16; in the base's type, or in
/// `out`.
pub(super) fn product(
    kind: Kind,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    onto: Onto<'_>,
    out: DType,
) -> Result<Tensor> {
    let (rows, cols) = kind.shape(a.dims2()?, b.dims2()?)?;
    let device = device_of(a)?;
    let (base, result) = match onto {
        Onto::Own(own) => (Some(own.clone()), own),
        Onto::At(place) => (None, place),
        onto => {
            let base = if let Onto::Base(base) = onto {
                Some(base.clone())
            } else {
                None
            };
            (base, unwritten((rows, cols), out, &device)?)
        }
    };
    let fits = |t: &Tensor| t.dims() == [rows, cols] && t.dtype() == result.dtype();
    if !base.iter().chain([&result]).all(fits) {
        candle_core::bail!("a product of {rows} x {cols} onto something else")
    }
    run(&device, kind, (a, b), scale, base.as_ref(), &result)?;
    Ok(result)
}

fn run(
    device: &CudaDevice,
    kind: Kind,
    (a, b): (&Tensor, &Tensor),
    scale: f32,
    base: Option<&Tensor>,
    out: &Tensor,
) -> Result<()> {
    let gpu = Gpu::of(device)?;
    let beta = if base.is_some() { 1.0f32 } else { 0.0 };
    let (a_at, b_at, out_at) = (
        address(a, DType::BF16)?,
        address(b, DType::BF16)?,
        address(out, out.dtype())?,
    );
    let base_at = base.map_or(Ok(out_at), |base| address(base, out.dtype()))?;
    let common = a_at | b_at | out_at | base_at;
    let alignment = 1u32 << common.trailing_zeros().min(8);
    let wide = out.dtype() == DType::F32;
    let plan = gpu.plans.plan(
        Key {
            kind,
            a: a.dims2()?,
            b: b.dims2()?,
            wide,
            alignment,
        },
        out.dims2()?,
    )?;
    let stream = device.cuda_stream();
    let (workspace, _held) = gpu.workspace.device_ptr(&stream);
    // SAFETY: the matrices have the sizes that the plan was made for, and live on this GPU until
    // work that is put on the stream later frees them.
    unsafe {
        result::matmul(
            gpu.plans.handle,
            plan.operation,
            (&raw const scale).cast(),
            (&raw const beta).cast(),
            b_at as *const c_void,
            plan.left,
            a_at as *const c_void,
            plan.right,
            base_at as *const c_void,
            plan.out,
            out_at as *mut c_void,
            plan.out,
            &raw const plan.algorithm,
            workspace as *mut c_void,
            WORKSPACE,
            stream.cu_stream().cast(),
        )
    }
    .map_err(fault)
}
