//! Which instructions products on a CPU run on.

/// Names only: what a CPU offers, and the kernel of each, is known where products are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Instructions {
    Amx,
    Avx512Bf16,
    Avx2,
    Neon,
    Portable,
}

impl Instructions {
    /// All that this program has kernels for, on one architecture or another, the fastest first.
    pub const KNOWN: [Self; 5] = [
        Self::Amx,
        Self::Avx512Bf16,
        Self::Avx2,
        Self::Neon,
        Self::Portable,
    ];

    /// Whether products in bf16 are faster than in `f32`.
    pub fn are_fast(self) -> bool {
        self != Self::Portable
    }

    /// As a person types it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// How products are made, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Amx => "bf16 on AMX tiles",
            Self::Avx512Bf16 => "bf16 on AVX512-BF16",
            Self::Avx2 => "bf16 widened to f32, on AVX2",
            Self::Neon => "bf16 widened to f32, on NEON",
            Self::Portable => "bf16 in portable code",
        }
    }
}
