//! The block product on AMX tiles (Intel, Architecture Instruction Set Extensions, chapter 3).
//!
//! Eight tiles of 16 rows x 64 bytes: four hold the block of results, two the activations, two the
//! panel. Written as assembly because the intrinsics are not stable; no compiler-generated code
//! touches tile registers.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use crate::types::rows::{BLOCK, Line};

/// Whether the CPU has bf16 tiles and the operating system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        // SAFETY: leaf 7 exists on every CPU with AVX-512, which the caller has asked for
        // first.
        let edx = __cpuid_count(7, 0).edx;
        edx & BF16_AND_TILES == BF16_AND_TILES && permitted()
    })
}

/// Asks Linux for the tile registers; the answer holds for every thread of the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call changes nothing but the set of registers that this process may use.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// All eight tiles in their full size.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static FULL_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// This thread's tiles, configured until it is dropped: a thread that holds tile data costs more to
/// switch.
pub(super) struct Tiles(());

impl Tiles {
    pub(super) fn open() -> Self {
        assert!(available(), "the CPU has no bf16 tiles");
        // SAFETY: the tiles are there, and the configuration is a valid one of palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const FULL_TILES, options(nostack, readonly))
        };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// See [`Kernel`](super::instructions::Kernel).
///
/// # Safety
/// The caller holds [`Tiles`]; `a` has 32 rows of `stride` lines and `b` has 32 lines for each of
/// `steps` > 0 steps.
pub(super) unsafe fn block(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32; BLOCK * BLOCK],
    add: bool,
) {
    let row_bytes = stride * size_of::<Line>();
    // SAFETY: as promised by the caller; `c` holds the four tiles of results.
    unsafe {
        asm!(
            "test {add}, {add}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {c_row}*1]",
            "tileloadd tmm1, [{c} + {c_row}*1 + 64]",
            "tileloadd tmm2, [{c} + {c_row}*1 + 2048]",
            "tileloadd tmm3, [{c} + {c_row}*1 + 2112]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {row_bytes}*1]",
            "tileloadd tmm6, [{b} + {line}*1]",
            "tileloadd tmm7, [{b} + {line}*1 + 1024]",
            "tileloadd tmm5, [{lower} + {row_bytes}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_row}*1], tmm0",
            "tilestored [{c} + {c_row}*1 + 64], tmm1",
            "tilestored [{c} + {c_row}*1 + 2048], tmm2",
            "tilestored [{c} + {c_row}*1 + 2112], tmm3",
            upper = inout(reg) a => _,
            lower = inout(reg) a.add(16 * stride) => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            row_bytes = in(reg) row_bytes,
            line = in(reg) 64usize,
            c = in(reg) c.as_mut_ptr(),
            add = in(reg) usize::from(add),
            c_row = in(reg) BLOCK * size_of::<f32>(),
            options(nostack),
        );
    }
}
