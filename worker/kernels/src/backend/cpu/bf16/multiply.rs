//! Products of `f32` activations with a frozen matrix in bf16, summed in `f32`.
//!
//! The frozen matrix is never dequantized whole: a task unpacks one strip of it, as wide as the
//! kernel's tile, into panels that stay in the cache, and runs all rows of the activations over it.
//! Panels have the layout that both kinds of hardware want (pairs along the summed dimension side
//! by side): AMX tiles ([`amx`]) where the CPU has them, AVX512-BF16 dot products
//! ([`avx512`]) where it has only those, multiplications in `f32` of what was widened on AVX2
//! (`avx2`) and NEON (`neon`), and plain code ([`portable`]) elsewhere, which is the reference form
//! and slow. Every sum has a fixed order that does not depend on the number of threads.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::instructions::Session;
use super::target::Target;
use super::term::Term;
use super::{few, panels};
use crate::types::instructions::Instructions;
use crate::types::rows::{self, BLOCK, Block, Line, Rows, STEP};

/// Steps that a kernel takes before it goes on to the next rows: this much of a panel stays in the
/// first-level cache.
const CHUNK: usize = 8;
/// Columns of a strip in the backward product, so that whole cache lines of a packed matrix are
/// read.
const STRIP: usize = 64;

/// Lines of a strip that the backward product unpacks at a time: the strip, of 256 KiB, and a panel
/// of it stay in the second-level cache.
const LINES: usize = 4096;

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    strip: Vec<Line>,
    panel: Vec<Line>,
    blocks: Vec<Block>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `y` [M, N] = `base` + the sum of `x` [M, K] `w`^T over the terms, whose matrices are [N, K] each
/// with a K of its own.
pub(crate) fn forward(
    terms: &[Term<'_>],
    base: Option<&[f32]>,
    y: &mut [f32],
    instructions: Instructions,
) {
    let (m, n) = ends(terms, |(n, k)| (k, n));
    multiply_forward(terms, &Target::floats(y, base, m, n), instructions);
}

/// [`forward`] in bf16.
pub(crate) fn forward_rows(terms: &[Term<'_>], instructions: Instructions) -> Rows {
    let (m, n) = ends(terms, |(n, k)| (k, n));
    let mut y = Rows::unwritten(m, n);
    multiply_forward(terms, &Target::rows(&mut y), instructions);
    y
}

/// `dx` [M, K] = `base` + the sum of `x` [M, N] `w` over the terms, whose matrices are [N, K] each
/// with an N of its own.
pub(crate) fn backward(
    terms: &[Term<'_>],
    base: Option<&[f32]>,
    dx: &mut [f32],
    instructions: Instructions,
) {
    let (m, k) = ends(terms, |(n, k)| (n, k));
    multiply_backward(terms, &Target::floats(dx, base, m, k), instructions);
}

/// [`backward`] in bf16.
pub(crate) fn backward_rows(terms: &[Term<'_>], instructions: Instructions) -> Rows {
    let (m, k) = ends(terms, |(n, k)| (n, k));
    let mut dx = Rows::unwritten(m, k);
    multiply_backward(terms, &Target::rows(&mut dx), instructions);
    dx
}

/// Rows and columns of the result; `order` puts the sides of a matrix as (summed, of the result).
///
/// # Panics
/// There are no terms, or their sizes do not fit together.
fn ends(terms: &[Term<'_>], order: impl Fn((usize, usize)) -> (usize, usize)) -> (usize, usize) {
    let (m, width) = (terms[0].x.rows, order(terms[0].w.shape()).1);
    for Term { x, w } in terms {
        assert_eq!(
            (x.rows, (x.width, width)),
            (m, order(w.shape())),
            "a term of another size"
        );
    }
    (m, width)
}

fn multiply_forward(terms: &[Term<'_>], target: &Target<'_>, instructions: Instructions) {
    if target.rows == 0 {
        return;
    }
    let n = target.width;
    (0..n.div_ceil(BLOCK)).into_par_iter().for_each(|task| {
        let columns = task * BLOCK..((task + 1) * BLOCK).min(n);
        SCRATCH.with_borrow_mut(
            |Scratch {
                 strip,
                 panel,
                 blocks,
             }| {
                if target.rows <= few::FEW {
                    return target.store(&few::block(terms, columns.clone(), strip), 0, &columns);
                }
                let panel = rows::room(panel, terms.iter().map(|term| term.x.steps * BLOCK).sum());
                let mut rest = &mut *panel;
                for Term { x, w } in terms {
                    let strip = rows::room(strip, BLOCK * x.steps);
                    // Rows that are missing make columns that are not stored; columns that are
                    // missing are summed over.
                    if !x.width.is_multiple_of(STEP) {
                        strip.fill(rows::ZERO);
                    }
                    w.unpack(
                        columns.clone(),
                        0..x.width,
                        rows::elements(strip),
                        x.steps * STEP,
                    );
                    let (own, others) = rest.split_at_mut(x.steps * BLOCK);
                    panels::transposed(strip, x.steps, own);
                    rest = others;
                }
                let session = Session::open(instructions);
                blocks.resize(target.rows.div_ceil(BLOCK), [0f32; BLOCK * BLOCK]);
                let mut rest = &*panel;
                for (i, Term { x, .. }) in terms.iter().enumerate() {
                    let (own, others) = rest.split_at(x.steps * BLOCK);
                    multiply_panel(x, 0, own, blocks, &session, i > 0);
                    rest = others;
                }
                store(blocks, columns, target);
            },
        );
    });
}

fn multiply_backward(terms: &[Term<'_>], target: &Target<'_>, instructions: Instructions) {
    if target.rows == 0 {
        return;
    }
    let k = target.width;
    let grain = terms.iter().map(|term| term.w.grain()).max().unwrap_or(1);
    let width = STRIP.next_multiple_of(grain);
    (0..k.div_ceil(width)).into_par_iter().for_each(|task| {
        let cols = task * width..((task + 1) * width).min(k);
        SCRATCH.with_borrow_mut(|scratch| {
            backward_strip(terms, cols, width, scratch, target, instructions)
        });
    });
}

/// The columns `cols` of the result, at most `width` of them. Of each matrix a part is unpacked at a
/// time that the second-level cache holds.
fn backward_strip(
    terms: &[Term<'_>],
    cols: Range<usize>,
    width: usize,
    scratch: &mut Scratch,
    target: &Target<'_>,
    instructions: Instructions,
) {
    let Scratch {
        strip,
        panel,
        blocks,
    } = scratch;
    let session = Session::open(instructions);
    let row_blocks = target.rows.div_ceil(BLOCK);
    let panels = cols.len().div_ceil(BLOCK);
    blocks.resize(row_blocks * panels, [0f32; BLOCK * BLOCK]);
    // Whole chunks, so that the order of sums does not depend on the width.
    let depth = (LINES / width).max(CHUNK).next_multiple_of(CHUNK);
    let mut add = false;
    for Term { x, w } in terms {
        for start in (0..x.steps).step_by(depth) {
            let steps = depth.min(x.steps - start);
            let summed = start * STEP..((start + steps) * STEP).min(x.width);
            let strip = rows::room(strip, steps * width);
            let out = rows::elements(strip);
            out[summed.len() * width..].fill(0);
            w.unpack(summed, cols.clone(), out, width);
            let panel = rows::room(panel, steps * BLOCK);
            for (i, blocks) in blocks.chunks_exact_mut(row_blocks).enumerate() {
                panels::interleaved(strip, width, i * BLOCK, panel);
                multiply_panel(x, start, panel, blocks, &session, add);
            }
            add = true;
        }
    }
    for (i, blocks) in blocks.chunks_exact(row_blocks).enumerate() {
        let start = cols.start + i * BLOCK;
        store(blocks, start..(start + BLOCK).min(cols.end), target);
    }
}

/// All rows of `x` from step `start` on times one panel, added to what is in `blocks` where `add` is
/// set.
fn multiply_panel(
    x: &Rows,
    start: usize,
    panel: &[Line],
    blocks: &mut [Block],
    session: &Session,
    add: bool,
) {
    for (chunk, panel) in panel.chunks(CHUNK * BLOCK).enumerate() {
        let steps = panel.len() / BLOCK;
        for (i, block) in blocks.iter_mut().enumerate() {
            let rows = &x.block(i * BLOCK)[start + chunk * CHUNK..];
            session.multiply(rows, x.steps, panel, steps, block, add || chunk > 0);
        }
    }
}

fn store(blocks: &[Block], cols: Range<usize>, target: &Target<'_>) {
    for (i, block) in blocks.iter().enumerate() {
        target.store(block, i * BLOCK, &cols);
    }
}
