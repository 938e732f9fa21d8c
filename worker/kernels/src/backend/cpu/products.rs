//! Sums of products in bf16, all terms of a sum added up before anything is stored.

use candle_core::Tensor;

use crate::Result;
use crate::backend::cpu::bf16::{multiply, term};
use crate::backend::cpu::sources;
use crate::host::bf16::pack;
use crate::host::view::{tensor, unwritten, view};
use crate::types::instructions::Instructions;
use crate::types::matmul::Term;
use crate::types::matrix::{Matrix, PanelSource};
use crate::types::rows::Rows;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

pub(super) fn sum(
    terms: &[Term<'_>],
    base: Option<&Tensor>,
    instructions: Instructions,
    direction: Direction,
) -> Result<Tensor> {
    let held = Held::of(terms, direction)?;
    let base = base.map(view).transpose()?;
    let mut out = unwritten(held.rows * held.width);
    match direction {
        Direction::Forward => {
            multiply::forward(&held.terms(), base.as_deref(), &mut out, instructions)
        }
        Direction::Backward => {
            multiply::backward(&held.terms(), base.as_deref(), &mut out, instructions)
        }
    }
    tensor(out, (held.rows, held.width))
}

/// [`sum`] in bf16.
pub(super) fn sum_rows(
    terms: &[Term<'_>],
    instructions: Instructions,
    direction: Direction,
) -> Result<Rows> {
    let held = Held::of(terms, direction)?;
    Ok(match direction {
        Direction::Forward => multiply::forward_rows(&held.terms(), instructions),
        Direction::Backward => multiply::backward_rows(&held.terms(), instructions),
    })
}

/// Terms in the forms that the kernels read.
struct Held<'a> {
    parts: Vec<(&'a Rows, Box<dyn PanelSource + 'a>)>,
    /// Of the result.
    rows: usize,
    width: usize,
}

impl<'a> Held<'a> {
    fn of(terms: &[Term<'a>], direction: Direction) -> Result<Self> {
        let Some(first) = terms.first() else {
            candle_core::bail!("no terms to multiply")
        };
        let ends = |w: &dyn Matrix| match (direction, w.shape()) {
            (Direction::Forward, (n, k)) => (k, n),
            (Direction::Backward, (n, k)) => (n, k),
        };
        let (rows, width) = (first.x.dims2()?.0, ends(first.w).1);
        let mut parts = Vec::with_capacity(terms.len());
        for term in terms {
            let (inputs, outputs) = ends(term.w);
            if term.x.dims2()? != (rows, inputs) || outputs != width {
                candle_core::bail!(
                    "{:?} cannot be multiplied with {:?}",
                    term.x.dims2()?,
                    term.w.shape()
                )
            }
            let x = term
                .x
                .rows(|tensor| Ok(pack(&view(tensor)?, tensor.dims2()?.1)))?;
            parts.push((x, sources::of(term.w, term.scale as f32)?));
        }
        Ok(Self { parts, rows, width })
    }

    fn terms(&self) -> Vec<term::Term<'_>> {
        self.parts
            .iter()
            .map(|(x, w)| term::Term { x, w: &**w })
            .collect()
    }
}
