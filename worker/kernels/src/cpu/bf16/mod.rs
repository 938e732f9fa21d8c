//! Products of `f32` activations with a frozen matrix in bf16, summed in `f32`.
//!
//! The frozen matrix is never written out whole: a task unpacks one strip of it, as wide as the kernel's tile, into
//! panels that stay in the cache, and runs all rows of the activations over it. Panels have the layout that both
//! kinds of hardware want (pairs along the summed dimension side by side): AMX tiles ([`amx`]) where the processor
//! has them, AVX512-BF16 dot products ([`avx512`]) where it has only those, multiplications in `f32` of what was widened
//! on AVX2 (`avx2`) and NEON (`neon`), and plain code ([`portable`]) elsewhere, which is the reference form and slow.
//! Every sum has a fixed order that does not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod few;
pub mod ggml;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod pack;
mod portable;
pub(crate) mod unpack;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

pub use pack::round;
use pack::{Line, Rows};

/// Rows and columns of the block of results that a kernel makes at one time.
pub(crate) const BLOCK: usize = 32;
/// Summed elements of one step of a kernel: a cache line of bf16.
pub(crate) const STEP: usize = 32;
/// Steps that a kernel takes before it goes on to the next rows: this much of a panel stays in the first-level cache.
const CHUNK: usize = 8;
/// Columns of a strip in the backward product, so that whole cache lines of a packed matrix are read.
const STRIP: usize = 64;

/// A frozen matrix [N, K] on the CPU that gives any part of itself in bf16.
pub trait Strips: Sync {
    /// (N, K).
    fn shape(&self) -> (usize, usize);

    /// Column ranges start at multiples of this.
    fn grain(&self) -> usize;

    /// Writes `rows` x `cols` into `out`, row `i` of the part from `i * stride` on, as bits of bf16.
    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize);
}

/// A kernel: `c` [32, 32] = `a` (32 rows of `steps` lines, `stride` lines apart) times `b` (`steps` pairs of tiles),
/// added to what is in `c` where `add` is set.
type Kernel =
    unsafe fn(a: *const Line, stride: usize, b: *const Line, steps: usize, c: &mut [f32; BLOCK * BLOCK], add: bool);

/// Which instructions the products run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    Amx,
    Avx512Bf16,
    Avx2,
    Neon,
    Portable,
}

impl Instructions {
    /// The best that this processor and its operating system offer.
    pub fn best() -> Self {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().next().unwrap_or(Self::Portable))
    }

    /// All that this processor and its operating system offer, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Amx, Self::Avx512Bf16, Self::Avx2, Self::Neon, Self::Portable]
            .into_iter()
            .filter(|i| i.kernel().is_some())
    }

    /// Whether products in bf16 are faster than in `f32`.
    pub fn are_fast(self) -> bool {
        self != Self::Portable
    }

    /// None where the processor or its operating system does not have the instructions.
    #[cfg(target_arch = "x86_64")]
    fn kernel(self) -> Option<Kernel> {
        match self {
            Self::Amx => (avx512::available() && amx::available()).then_some(amx::block),
            Self::Avx512Bf16 => avx512::available().then_some(avx512::block),
            Self::Avx2 => avx2::available().then_some(avx2::block),
            Self::Neon => None,
            Self::Portable => Some(portable::block),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn kernel(self) -> Option<Kernel> {
        match self {
            Self::Neon => Some(neon::block),
            Self::Portable => Some(portable::block),
            Self::Amx | Self::Avx512Bf16 | Self::Avx2 => None,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn kernel(self) -> Option<Kernel> {
        (self == Self::Portable).then_some(portable::block)
    }
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    strip: Vec<Line>,
    panel: Vec<Line>,
    blocks: Vec<Block>,
}

/// Results of one call of a kernel.
type Block = [f32; BLOCK * BLOCK];

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One product of a sum: activations times a frozen matrix.
pub(crate) struct Term<'a> {
    pub x: &'a Rows,
    pub w: &'a dyn Strips,
}

/// `y` [M, N] = `base` + the sum of `x` [M, K] `w`^T over the terms, whose matrices are [N, K] each with a K of
/// its own.
pub(crate) fn forward(terms: &[Term<'_>], base: Option<&[f32]>, y: &mut [f32], instructions: Instructions) {
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

/// `dx` [M, K] = `base` + the sum of `x` [M, N] `w` over the terms, whose matrices are [N, K] each with an N of
/// its own.
pub(crate) fn backward(terms: &[Term<'_>], base: Option<&[f32]>, dx: &mut [f32], instructions: Instructions) {
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
        assert_eq!((x.rows, (x.width, width)), (m, order(w.shape())), "a term of another size");
    }
    (m, width)
}

fn multiply_forward(terms: &[Term<'_>], target: &Target<'_>, instructions: Instructions) {
    let n = target.width;
    (0..n.div_ceil(BLOCK)).into_par_iter().for_each(|task| {
        let rows = task * BLOCK..((task + 1) * BLOCK).min(n);
        SCRATCH.with_borrow_mut(|Scratch { strip, panel, blocks }| {
            if target.rows <= few::FEW {
                return target.store(&few::block(terms, rows.clone(), strip), 0, &rows);
            }
            let panel = pack::room(panel, terms.iter().map(|term| term.x.steps * BLOCK).sum());
            let mut rest = &mut *panel;
            for Term { x, w } in terms {
                let strip = pack::room(strip, BLOCK * x.steps);
                // Rows that are missing make columns that are not stored; columns that are missing are summed over.
                if !x.width.is_multiple_of(STEP) {
                    strip.fill(pack::ZERO);
                }
                w.unpack(rows.clone(), 0..x.width, pack::elements(strip), x.steps * STEP);
                let (own, others) = rest.split_at_mut(x.steps * BLOCK);
                pack::transposed(strip, x.steps, own);
                rest = others;
            }
            run(terms, panel, blocks, rows, target, instructions);
        });
    });
}

fn multiply_backward(terms: &[Term<'_>], target: &Target<'_>, instructions: Instructions) {
    let k = target.width;
    let grain = terms.iter().map(|term| term.w.grain()).max().unwrap_or(1);
    let width = STRIP.next_multiple_of(grain);
    (0..k.div_ceil(width)).into_par_iter().for_each(|task| {
        let cols = task * width..((task + 1) * width).min(k);
        SCRATCH.with_borrow_mut(|Scratch { strip, panel, blocks }| {
            let steps: usize = terms.iter().map(|term| term.x.steps).sum();
            let strip = pack::room(strip, steps * width);
            let mut out = pack::elements(strip);
            for Term { x, w } in terms {
                let (own, rest) = out.split_at_mut(x.steps * STEP * width);
                own[x.width * width..].fill(0);
                w.unpack(0..x.width, cols.clone(), own, width);
                out = rest;
            }
            let panel = pack::room(panel, steps * BLOCK);
            for start in (0..cols.len()).step_by(BLOCK) {
                pack::interleaved(strip, width, start, panel);
                let part = cols.start + start..(cols.start + start + BLOCK).min(cols.end);
                run(terms, panel, blocks, part, target, instructions);
            }
        });
    });
}

/// The matrix of results, of which every task writes its own columns.
struct Target<'a> {
    out: Out<'a>,
    rows: usize,
    width: usize,
}

enum Out<'a> {
    /// Row by row, each result added to `base`.
    Floats { start: *mut f32, base: Option<&'a [f32]> },
    /// [`Rows`] of so many lines each.
    Lines { start: *mut Line, steps: usize },
}

// SAFETY: tasks write disjoint columns, and the matrix outlives them all.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    fn floats(out: &mut [f32], base: Option<&'a [f32]>, rows: usize, width: usize) -> Self {
        assert_eq!(out.len(), rows * width, "the results are no {rows} x {width} matrix");
        assert!(base.is_none_or(|base| base.len() == out.len()), "a base of another size");
        Self { out: Out::Floats { start: out.as_mut_ptr(), base }, rows, width }
    }

    fn rows(out: &mut Rows) -> Self {
        let (rows, width, steps) = (out.rows, out.width, out.steps);
        Self { out: Out::Lines { start: out.lines_mut().as_mut_ptr(), steps }, rows, width }
    }

    /// Writes the upper left part of `block` to row `row` and the columns `cols`, which begin at a multiple of 32.
    fn store(&self, block: &Block, row: usize, cols: &Range<usize>) {
        debug_assert!(cols.end <= self.width);
        let (values, _) = block.as_chunks::<BLOCK>();
        match self.out {
            Out::Floats { start, base } => {
                for (i, values) in values.iter().enumerate().take(self.rows - row) {
                    let at = (row + i) * self.width + cols.start;
                    // SAFETY: row + i < rows and cols.end <= width, so the part lies inside the matrix; see `Sync`.
                    let out = unsafe { std::slice::from_raw_parts_mut(start.add(at), cols.len()) };
                    let base = base.map(|base| &base[at..at + cols.len()]);
                    // A whole row has a length that the compiler knows: no call is made to copy it.
                    match <&mut [f32; BLOCK]>::try_from(&mut *out) {
                        Ok(out) => put(out, values, base),
                        Err(_) => put(out, values, base),
                    }
                }
            }
            Out::Lines { start, steps } => {
                for (i, values) in values.iter().enumerate() {
                    // SAFETY: rows are padded to whole blocks and columns to whole lines, so the line is there.
                    let line = unsafe { &mut *start.add((row + i) * steps + cols.start / STEP) };
                    round(values, 1.0, &mut line.0);
                    // Of missing columns the block holds anything; missing rows are products with zeros.
                    line.0[cols.len().min(STEP)..].fill(0);
                }
            }
        }
    }
}

/// Writes `values`, added to `base` where there is one.
#[inline(always)]
fn put(out: &mut [f32], values: &[f32], base: Option<&[f32]>) {
    match base {
        None => out.iter_mut().zip(values).for_each(|(out, value)| *out = *value),
        Some(base) => out.iter_mut().zip(values).zip(base).for_each(|((out, value), base)| *out = base + value),
    }
}

/// All rows of all terms times one panel.
fn run(
    terms: &[Term<'_>],
    panel: &[Line],
    blocks: &mut Vec<Block>,
    cols: Range<usize>,
    target: &Target<'_>,
    instructions: Instructions,
) {
    let session = Session::open(instructions);
    blocks.resize(target.rows.div_ceil(BLOCK), [0f32; BLOCK * BLOCK]);
    let mut done = 0;
    for Term { x, .. } in terms {
        for start in (0..x.steps).step_by(CHUNK) {
            let length = CHUNK.min(x.steps - start);
            for (i, block) in blocks.iter_mut().enumerate() {
                let rows = &x.block(i * BLOCK)[start..];
                session.multiply(rows, x.steps, &panel[done * BLOCK..], length, block, done > 0);
            }
            done += length;
        }
    }
    for (i, block) in blocks.iter().enumerate() {
        target.store(block, i * BLOCK, &cols);
    }
}

/// A kernel made ready on this thread.
pub(crate) struct Session {
    kernel: Kernel,
    #[cfg(target_arch = "x86_64")]
    _tiles: Option<amx::Tiles>,
}

impl Session {
    /// # Panics
    /// The processor does not have `instructions`.
    pub(crate) fn open(instructions: Instructions) -> Self {
        let Some(kernel) = instructions.kernel() else { panic!("the processor does not have {instructions:?}") };
        Self {
            kernel,
            #[cfg(target_arch = "x86_64")]
            _tiles: (instructions == Instructions::Amx).then(amx::Tiles::open),
        }
    }

    /// `c` [32, 32] = 32 rows of `a`, `stride` lines apart and `steps` lines long, times `steps` pairs of tiles of `b`.
    ///
    /// # Panics
    /// `a` or `b` is too short, or there is no step.
    pub(crate) fn block(&self, a: &[Line], stride: usize, b: &[Line], steps: usize, c: &mut Block) {
        self.multiply(a, stride, b, steps, c, false);
    }

    /// [`Self::block`], added to what is in `c` where `add` is set.
    fn multiply(&self, a: &[Line], stride: usize, b: &[Line], steps: usize, c: &mut Block, add: bool) {
        assert!(steps > 0 && a.len() >= (BLOCK - 1) * stride + steps && b.len() >= steps * BLOCK, "too few lines");
        // SAFETY: the lengths were checked, `open` found the instructions available, and this thread holds the tiles.
        unsafe { (self.kernel)(a.as_ptr(), stride, b.as_ptr(), steps, c, add) };
    }
}
