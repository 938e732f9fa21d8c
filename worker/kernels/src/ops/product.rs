//! Sums of products with frozen matrices [N, K]: `x` [M, K] to `x w^T` [M, N], and back `dy` to `dy w`.
//!
//! No gradient of a matrix exists. The reference form writes the matrix out and multiplies; the fast form on the
//! processor multiplies in bf16 and sums in `f32`, a strip of the matrix at a time, and adds up all terms of a sum
//! before anything is stored.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use parking_lot::RwLockReadGuard;

use super::activations::Activations;
use super::rows;
use crate::Result;
use crate::cpu::bf16::pack::{self, Rows};
use crate::cpu::bf16::{self, Instructions, Strips};
#[cfg(feature = "cuda")]
use crate::cuda::products::{self, Kind, Onto};
use crate::view::{tensor, unwritten, view};

/// A matrix [N, K] that is multiplied with and gets no gradient here.
pub trait Matrix {
    /// (N, K).
    fn shape(&self) -> (usize, usize);
    /// The matrix as a tensor of `dtype`.
    fn written_out(&self, dtype: DType) -> Result<Tensor>;
    /// Begins to write the matrix out for a product to come, beside those that come before, where a GPU can; in bf16.
    fn begin(&self) -> Result<()> {
        Ok(())
    }
    /// `scale` times the matrix in strips of bf16; none where it is not on the CPU.
    fn strips(&self, scale: f32) -> Result<Option<Box<dyn Strips + '_>>>;
}

impl Matrix for Tensor {
    fn shape(&self) -> (usize, usize) {
        self.dims2().unwrap_or_default()
    }

    fn written_out(&self, dtype: DType) -> Result<Tensor> {
        rows::cast(self, dtype)
    }

    fn strips(&self, scale: f32) -> Result<Option<Box<dyn Strips + '_>>> {
        Ok(PlainStrips::of(self, scale).map(|strips| Box::new(strips) as _))
    }
}

/// One product of a sum: `x` times `scale` times the matrix.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub x: &'a Activations,
    pub w: &'a dyn Matrix,
    pub scale: f64,
}

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Matrices are written out in the element type of the activations and multiplied: the reference form.
    WrittenOut,
    /// On the processor in bf16 with `f32` sums.
    Strips(Instructions),
    /// On a GPU in bf16 with `f32` sums, by cuBLASLt.
    #[cfg(feature = "cuda")]
    CublasLt,
}

impl Products {
    /// `base` plus the sum of `scale x w^T`, [M, N].
    pub fn forward(self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Strips(instructions) => fast(terms, base, instructions, Direction::Forward),
            Self::WrittenOut => sum(terms, base, |x, w| x.matmul(&w.t()?)),
            #[cfg(feature = "cuda")]
            Self::CublasLt => forward_on_gpu(terms, base),
        }
    }

    /// x w^T in `f32`; on a GPU as its sums are, before any rounding.
    pub fn wide(self, x: &Activations, w: &dyn Matrix) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self == Self::CublasLt {
            let w = w.written_out(DType::BF16)?;
            return products::product(Kind::Forward, x.tensor()?, &w, 1.0, Onto::Nothing, DType::F32);
        }
        self.forward(&[Term { x, w, scale: 1.0 }], None)?.to_dtype(DType::F32)
    }

    /// [`Self::forward`] for a result that goes on to other products; in bf16 where those are.
    pub fn forward_on(self, terms: &[Term<'_>]) -> Result<Activations> {
        match self {
            Self::Strips(instructions) => Ok(fast_rows(terms, instructions, Direction::Forward)?.into()),
            _ => Ok(self.forward(terms, None)?.into()),
        }
    }

    /// `base` plus the sum of `scale x w`, [M, K].
    pub fn backward(self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Strips(instructions) => fast(terms, base, instructions, Direction::Backward),
            Self::WrittenOut => sum(terms, base, Tensor::matmul),
            #[cfg(feature = "cuda")]
            Self::CublasLt => backward_on_gpu(terms, base),
        }
    }

    /// [`Self::backward`] for a result that goes on to other products; in bf16 where those are.
    pub fn backward_on(self, terms: &[Term<'_>]) -> Result<Activations> {
        match self {
            Self::Strips(instructions) => Ok(fast_rows(terms, instructions, Direction::Backward)?.into()),
            _ => Ok(self.backward(terms, None)?.into()),
        }
    }

    /// `scale` times a^T b of `a` [M, P] and `b` [M, Q], [P, Q] in `f32`: the gradient of a matrix.
    pub fn outer(self, a: &Activations, b: &Activations, scale: f64) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self == Self::CublasLt {
            let (a, b) = (a.tensor()?, b.tensor()?);
            return products::product(Kind::Outer, a, b, scale as f32, Onto::Nothing, DType::F32);
        }
        // The narrower of the two is transposed.
        if a.dims2()?.1 > b.dims2()?.1 {
            return self.outer(b, a, scale)?.t()?.contiguous();
        }
        let turned = a.tensor()?.t()?.contiguous()?.into();
        self.backward(&[Term { x: &turned, w: b, scale }], None)?.to_dtype(DType::F32)
    }
}

/// `base` plus the sum of `scale x w^T` on a GPU, as one product: [x | u] [W | s B]^T for a matrix and its adapter.
///
/// So all is summed before anything is rounded. cuBLASLt rounds a product to the type of its result before it adds its
/// third operand (seen on an H200, CUDA 13.0): added one to another, what an adapter gives in its first steps would vanish
/// beside the other product, whichever comes first.
#[cfg(feature = "cuda")]
fn forward_on_gpu(terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
    let Some((first, rest)) = terms.split_first() else { candle_core::bail!("no terms to multiply") };
    let (mut x, mut w) = (rows::cast(first.x.tensor()?, DType::BF16)?, first.w.written_out(DType::BF16)?);
    for term in rest {
        // Both get as many zeros behind them, so that rows stay whole for cuBLASLt's fast kernels.
        x = rows::join_columns(&x, term.x.tensor()?, 1.0)?;
        w = rows::join_columns(&w, &term.w.written_out(DType::F32)?, (term.scale / first.scale) as f32)?;
    }
    let onto = base.map_or(Onto::Nothing, Onto::Base);
    products::product(Kind::Forward, &x, &w, first.scale as f32, onto, DType::BF16)
}

/// `base` plus the sum of `scale x w` on a GPU: every product is added to what is there, in place, and rounded; those with
/// the shortest sums, of adapters, come first.
#[cfg(feature = "cuda")]
fn backward_on_gpu(terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
    let mut order: Vec<&Term<'_>> = terms.iter().collect();
    order.sort_by_key(|term| term.w.shape().0);
    let mut total: Option<Tensor> = None;
    for (i, term) in order.iter().enumerate() {
        let (x, w) = (rows::cast(term.x.tensor()?, DType::BF16)?, term.w.written_out(DType::BF16)?);
        let onto = match (total.take(), base) {
            (Some(own), _) => Onto::Own(own),
            (None, Some(base)) => Onto::Base(base),
            (None, None) => Onto::Nothing,
        };
        if let Some(next) = order.get(i + 1) {
            next.w.begin()?;
        }
        total = Some(products::product(Kind::Backward, &x, &w, term.scale as f32, onto, DType::BF16)?);
    }
    total.ok_or_else(|| candle_core::Error::Msg("no terms to multiply".into()))
}

/// The sum in candle's operations.
fn sum(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    product: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut total = base.cloned();
    for term in terms {
        let x = term.x.tensor()?;
        let part = product(x, &term.w.written_out(x.dtype())?)?;
        let part = if term.scale == 1.0 { part } else { (part * term.scale)? };
        total = Some(match total {
            None => part,
            Some(total) => (total + part)?,
        });
    }
    total.ok_or_else(|| candle_core::Error::Msg("no terms to multiply".into()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

fn fast(terms: &[Term<'_>], base: Option<&Tensor>, instructions: Instructions, direction: Direction) -> Result<Tensor> {
    let held = Held::of(terms, direction)?;
    let base = base.map(view).transpose()?;
    let mut out = unwritten(held.rows * held.width);
    match direction {
        Direction::Forward => bf16::forward(&held.terms(), base.as_deref(), &mut out, instructions),
        Direction::Backward => bf16::backward(&held.terms(), base.as_deref(), &mut out, instructions),
    }
    tensor(out, (held.rows, held.width))
}

fn fast_rows(terms: &[Term<'_>], instructions: Instructions, direction: Direction) -> Result<Rows> {
    let held = Held::of(terms, direction)?;
    Ok(match direction {
        Direction::Forward => bf16::forward_rows(&held.terms(), instructions),
        Direction::Backward => bf16::backward_rows(&held.terms(), instructions),
    })
}

/// Terms in the forms that the kernels read.
struct Held<'a> {
    parts: Vec<(&'a Rows, Box<dyn Strips + 'a>)>,
    /// Of the result.
    rows: usize,
    width: usize,
}

impl<'a> Held<'a> {
    fn of(terms: &[Term<'a>], direction: Direction) -> Result<Self> {
        let Some(first) = terms.first() else { candle_core::bail!("no terms to multiply") };
        let ends = |w: &dyn Matrix| match (direction, w.shape()) {
            (Direction::Forward, (n, k)) => (k, n),
            (Direction::Backward, (n, k)) => (n, k),
        };
        let (rows, width) = (first.x.dims2()?.0, ends(first.w).1);
        let mut parts = Vec::with_capacity(terms.len());
        for term in terms {
            let (inputs, outputs) = ends(term.w);
            if term.x.dims2()? != (rows, inputs) || outputs != width {
                candle_core::bail!("{:?} cannot be multiplied with {:?}", term.x.dims2()?, term.w.shape())
            }
            let Some(strips) = term.w.strips(term.scale as f32)? else { candle_core::bail!("a matrix not on the cpu") };
            parts.push((term.x.rows()?, strips));
        }
        Ok(Self { parts, rows, width })
    }

    fn terms(&self) -> Vec<bf16::Term<'_>> {
        self.parts.iter().map(|(x, w)| bf16::Term { x, w: &**w }).collect()
    }
}

/// A matrix of floats as it lies in memory.
pub struct PlainStrips<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    shape: (usize, usize),
    scale: f32,
}

impl<'a> PlainStrips<'a> {
    /// Strips of `scale` times a contiguous matrix of floats on the CPU; none where it is something else.
    pub fn of(matrix: &'a Tensor, scale: f32) -> Option<Self> {
        let known = matches!(matrix.dtype(), DType::F32 | DType::F16 | DType::BF16);
        let shape = matrix.dims2().ok().filter(|_| known && matches!(matrix.device(), Device::Cpu))?;
        let (storage, layout) = matrix.storage_and_layout();
        let (start, _) = layout.contiguous_offsets()?;
        Some(Self { storage, start, shape, scale })
    }

    fn convert<T: Copy + Into<f32>>(&self, row: &[T], out: &mut [u16]) {
        out.iter_mut().zip(row).for_each(|(out, &value)| *out = pack::to_bf16(self.scale * value.into()));
    }

    fn rows<'s, T>(&self, data: &'s [T], rows: Range<usize>, cols: Range<usize>) -> impl Iterator<Item = &'s [T]> {
        let (start, width) = (self.start, self.shape.1);
        rows.map(move |row| &data[start + row * width..][cols.clone()])
    }
}

impl Strips for PlainStrips<'_> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn grain(&self) -> usize {
        1
    }

    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize) {
        let out = out.chunks_mut(stride).map(|out| &mut out[..cols.len()]);
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => {
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| pack::round(row, self.scale, out));
            }
            Storage::Cpu(CpuStorage::BF16(data)) if self.scale == 1.0 => {
                let bits = |(out, row): (&mut [u16], &[half::bf16])| {
                    out.iter_mut().zip(row).for_each(|(out, value)| *out = value.to_bits());
                };
                out.zip(self.rows(data, rows, cols.clone())).for_each(bits);
            }
            Storage::Cpu(CpuStorage::BF16(data)) => {
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| self.convert(row, out));
            }
            Storage::Cpu(CpuStorage::F16(data)) => {
                out.zip(self.rows(data, rows, cols.clone())).for_each(|(out, row)| self.convert(row, out));
            }
            _ => debug_assert!(false, "`of` takes floats on the CPU only"),
        }
    }
}
