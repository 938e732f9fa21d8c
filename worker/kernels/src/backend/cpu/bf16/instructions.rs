//! Which instructions products run on, and the kernel of each made ready on a thread.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};
#[cfg(target_arch = "x86_64")]
use crate::host::bf16::has_avx512_bf16;
use crate::types::instructions::Instructions;
use crate::types::rows::{BLOCK, Block, Line};

/// A kernel: `c` [32, 32] = `a` (32 rows of `steps` lines, `stride` lines apart) times `b` (`steps`
/// pairs of tiles), added to what is in `c` where `add` is set.
pub(super) type Kernel = unsafe fn(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32; BLOCK * BLOCK],
    add: bool,
);

impl Instructions {
    /// The best that this CPU and its operating system offer.
    pub fn best() -> Self {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().next().unwrap_or(Self::Portable))
    }

    /// All that this CPU and its operating system offer, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::KNOWN.into_iter().filter(|i| i.kernel().is_some())
    }

    /// None where the CPU or its operating system does not have the instructions.
    #[cfg(target_arch = "x86_64")]
    fn kernel(self) -> Option<Kernel> {
        match self {
            Self::Amx => (has_avx512_bf16() && amx::available()).then_some(amx::block),
            Self::Avx512Bf16 => has_avx512_bf16().then_some(avx512::block),
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

/// A kernel made ready on this thread.
pub(crate) struct Session {
    kernel: Kernel,
    #[cfg(target_arch = "x86_64")]
    _tiles: Option<amx::Tiles>,
}

impl Session {
    /// # Panics
    /// The CPU does not have `instructions`.
    pub(crate) fn open(instructions: Instructions) -> Self {
        let Some(kernel) = instructions.kernel() else {
            panic!("the CPU does not have {instructions:?}")
        };
        Self {
            kernel,
            #[cfg(target_arch = "x86_64")]
            _tiles: (instructions == Instructions::Amx).then(amx::Tiles::open),
        }
    }

    /// `c` [32, 32] = 32 rows of `a`, `stride` lines apart and `steps` lines long, times `steps`
    /// pairs of tiles of `b`.
    ///
    /// # Panics
    /// `a` or `b` is too short, or there is no step.
    pub(crate) fn block(&self, a: &[Line], stride: usize, b: &[Line], steps: usize, c: &mut Block) {
        self.multiply(a, stride, b, steps, c, false);
    }

    /// [`Self::block`], added to what is in `c` where `add` is set.
    pub(crate) fn multiply(
        &self,
        a: &[Line],
        stride: usize,
        b: &[Line],
        steps: usize,
        c: &mut Block,
        add: bool,
    ) {
        assert!(
            steps > 0 && a.len() >= (BLOCK - 1) * stride + steps && b.len() >= steps * BLOCK,
            "too few lines"
        );
        // SAFETY: the lengths were checked, `open` found the instructions available, and this
        // thread holds the tiles.
        unsafe { (self.kernel)(a.as_ptr(), stride, b.as_ptr(), steps, c, add) };
    }
}
