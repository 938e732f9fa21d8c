//! Products of `f32` activations with a frozen matrix in bf16, summed in `f32`.
//!
//! The frozen matrix is never written out whole: a task unpacks one strip of it, as wide as the kernel's tile, into
//! panels that stay in the cache, and runs all rows of the activations over it. Panels have the layout that both
//! kinds of hardware want (pairs along the summed dimension side by side): AMX tiles ([`amx`]) where the processor
//! has them, AVX512-BF16 dot products ([`avx512`]) where it has only those, and plain code ([`portable`]) elsewhere,
//! which is the reference form and slow. Every sum has a fixed order that does not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
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

/// A kernel: `c` [32, 32] = `a` (32 rows of `steps` lines, `stride` lines apart) times `b` (`steps` pairs of tiles).
type Kernel = unsafe fn(a: *const Line, stride: usize, b: *const Line, steps: usize, c: &mut [f32; BLOCK * BLOCK]);

/// Which instructions the products run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    Amx,
    Avx512Bf16,
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
        [Self::Amx, Self::Avx512Bf16, Self::Portable].into_iter().filter(|i| i.available())
    }

    /// Whether products in bf16 are faster than in `f32`.
    pub fn are_fast(self) -> bool {
        self != Self::Portable
    }

    #[cfg(target_arch = "x86_64")]
    fn available(self) -> bool {
        match self {
            Self::Amx => avx512::available() && amx::available(),
            Self::Avx512Bf16 => avx512::available(),
            Self::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn available(self) -> bool {
        self == Self::Portable
    }

    #[cfg(target_arch = "x86_64")]
    fn kernel(self) -> Kernel {
        match self {
            Self::Amx => amx::block,
            Self::Avx512Bf16 => avx512::block,
            Self::Portable => portable::block,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn kernel(self) -> Kernel {
        portable::block
    }
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    strip: Vec<Line>,
    panel: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `y` [M, N] = `x` [M, K] `w`^T.
pub(crate) fn forward(x: &[f32], w: &dyn Strips, y: &mut [f32], instructions: Instructions) {
    let (n, k) = w.shape();
    let m = x.len() / k;
    assert_eq!((x.len(), y.len()), (m * k, m * n), "the activations do not fit a {n} x {k} matrix");
    let x = Rows::pack(x, m, k);
    let target = Target { start: y.as_mut_ptr(), rows: m, width: n };
    (0..n.div_ceil(BLOCK)).into_par_iter().for_each(|task| {
        let rows = task * BLOCK..((task + 1) * BLOCK).min(n);
        SCRATCH.with_borrow_mut(|scratch| {
            let steps = k.div_ceil(STEP);
            pack::clear(&mut scratch.strip, BLOCK * steps);
            w.unpack(rows.clone(), 0..k, pack::elements(&mut scratch.strip), steps * STEP);
            pack::transposed(&scratch.strip, steps, &mut scratch.panel);
            run(&x, &scratch.panel, steps, rows, &target, instructions);
        });
    });
}

/// `dx` [M, K] = `dy` [M, N] `w`.
pub(crate) fn backward(dy: &[f32], w: &dyn Strips, dx: &mut [f32], instructions: Instructions) {
    let (n, k) = w.shape();
    let m = dy.len() / n;
    assert_eq!((dy.len(), dx.len()), (m * n, m * k), "the gradients do not fit a {n} x {k} matrix");
    let dy = Rows::pack(dy, m, n);
    let target = Target { start: dx.as_mut_ptr(), rows: m, width: k };
    let width = STRIP.next_multiple_of(w.grain());
    (0..k.div_ceil(width)).into_par_iter().for_each(|task| {
        let cols = task * width..((task + 1) * width).min(k);
        SCRATCH.with_borrow_mut(|scratch| {
            let steps = n.div_ceil(STEP);
            pack::clear(&mut scratch.strip, steps * STEP * width / STEP);
            w.unpack(0..n, cols.clone(), pack::elements(&mut scratch.strip), width);
            for start in (0..cols.len()).step_by(BLOCK) {
                pack::interleaved(&scratch.strip, width, start, steps, &mut scratch.panel);
                let part = cols.start + start..(cols.start + start + BLOCK).min(cols.end);
                run(&dy, &scratch.panel, steps, part, &target, instructions);
            }
        });
    });
}

/// The matrix of results, of which every task writes its own columns.
struct Target {
    start: *mut f32,
    rows: usize,
    width: usize,
}

// SAFETY: tasks write disjoint columns, and the matrix outlives them all.
unsafe impl Sync for Target {}

impl Target {
    /// Copies the upper left part of `block` to row `row` and the columns `cols`.
    fn store(&self, block: &[f32; BLOCK * BLOCK], row: usize, cols: &Range<usize>) {
        debug_assert!(cols.end <= self.width);
        for (i, values) in block.chunks_exact(BLOCK).take(self.rows - row).enumerate() {
            // SAFETY: row + i < rows and cols.end <= width, so the part lies inside the matrix; see `Sync` above.
            let out = unsafe {
                let at = self.start.add((row + i) * self.width + cols.start);
                std::slice::from_raw_parts_mut(at, cols.len())
            };
            out.copy_from_slice(&values[..cols.len()]);
        }
    }
}

/// All rows of `a` times one panel.
fn run(a: &Rows, panel: &[Line], steps: usize, cols: Range<usize>, target: &Target, instructions: Instructions) {
    assert!(panel.len() >= steps * BLOCK && a.steps() == steps, "a panel of another length");
    let kernel = instructions.kernel();
    #[cfg(target_arch = "x86_64")]
    let _tiles = (instructions == Instructions::Amx).then(amx::Tiles::open);
    let mut block = [0f32; BLOCK * BLOCK];
    for row in (0..target.rows).step_by(BLOCK) {
        // SAFETY: `Rows` pads to whole blocks of rows, the panel holds `steps` pairs of tiles, and `instructions`
        // was found available.
        unsafe { kernel(a.block(row), steps, panel.as_ptr(), steps, &mut block) };
        target.store(&block, row, &cols);
    }
}
