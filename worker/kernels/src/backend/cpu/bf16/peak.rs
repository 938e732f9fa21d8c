//! What the instructions of the block products reach when everything lies in registers: the rate
//! that the products, and a whole step, are compared with.
//!
//! A loop of multiply-adds with as many independent sums as hide their latency, in assembly so that
//! no compiler removes the unused result. It does not measure memory.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::types::instructions::Instructions;

/// Instructions of a measurement: some ten milliseconds.
const INSTRUCTIONS: u64 = 48_000_000;
/// Instructions of AMX, each of which takes sixteen times as long.
const TILE_INSTRUCTIONS: u64 = INSTRUCTIONS / 16;
/// Independent sums of a round, by which the latency of an instruction is hidden; there are eight
/// tiles only.
const SUMS: u64 = 12;
const TILE_SUMS: u64 = 4;

/// Register `\i` of twelve sums, and one more, made zero by the first instruction, and then
/// [`INSTRUCTIONS`] of the second one, in turns for each of the sums.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($zero:literal, $add:literal) => {
        asm!(
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", $zero, ".endr",
            "2:",
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11", $add, ".endr",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) INSTRUCTIONS / SUMS => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _,
            options(nostack, nomem),
        )
    };
}

/// As on x86.
#[cfg(target_arch = "aarch64")]
macro_rules! rounds {
    ($zero:literal, $add:literal) => {
        asm!(
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", $zero, ".endr",
            "2:",
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11", $add, ".endr",
            "subs {rounds}, {rounds}, #1",
            "b.ne 2b",
            rounds = inout(reg) INSTRUCTIONS / SUMS => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _,
            out("v5") _, out("v6") _, out("v7") _, out("v8") _, out("v9") _,
            out("v10") _, out("v11") _, out("v12") _,
            options(nostack, nomem),
        )
    };
}

/// Floating-point operations a second of all threads together; none for portable code, and where
/// the CPU does not have `instructions`.
pub(crate) fn rate(instructions: Instructions) -> Option<f64> {
    if !Instructions::all().any(|have| have == instructions) {
        return None;
    }
    let operations = operations(instructions)?;
    let seconds = rayon::broadcast(|_| seconds(instructions));
    Some(seconds.iter().map(|seconds| operations / seconds).sum())
}

/// Floating-point operations of a measurement.
fn operations(instructions: Instructions) -> Option<f64> {
    // Instructions, lanes of a sum, products added to a lane at once.
    let (count, lanes, products) = match instructions {
        Instructions::Amx => (TILE_INSTRUCTIONS, 256, 32),
        Instructions::Avx512Bf16 => (INSTRUCTIONS, 16, 2),
        Instructions::Avx2 => (INSTRUCTIONS, 8, 1),
        Instructions::Neon => (INSTRUCTIONS, 4, 1),
        Instructions::Portable => return None,
    };
    Some((2 * count * lanes * products) as f64)
}

/// Seconds that this thread needs for a measurement.
fn seconds(instructions: Instructions) -> f64 {
    #[cfg(target_arch = "x86_64")]
    let _tiles = (instructions == Instructions::Amx).then(amx::Tiles::open);
    let start = Instant::now();
    // SAFETY: `rate` found the instructions available, and this thread holds the tiles.
    unsafe { run(instructions) };
    start.elapsed().as_secs_f64()
}

/// Repeats the instructions on sums that are zero.
///
/// # Safety
/// The CPU has `instructions`, and this thread holds the tiles if they are AMX.
unsafe fn run(instructions: Instructions) {
    // SAFETY: as promised by the caller; nothing but registers is touched.
    unsafe {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx => tiles(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 => {
                rounds!(
                    "vpxord zmm\\i, zmm\\i, zmm\\i",
                    "vdpbf16ps zmm\\i, zmm12, zmm12"
                );
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => {
                rounds!(
                    "vxorps ymm\\i, ymm\\i, ymm\\i",
                    "vfmadd231ps ymm\\i, ymm12, ymm12"
                );
            }
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => {
                rounds!("movi v\\i\\().4s, #0", "fmla v\\i\\().4s, v12.4s, v12.4s");
            }
            _ => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn tiles() {
    // SAFETY: as promised by the caller of `run`.
    unsafe {
        asm!(
            ".irp i, 0, 1, 2, 3, 4, 5",
            "tilezero tmm\\i",
            ".endr",
            "2:",
            ".irp i, 0, 1, 2, 3",
            "tdpbf16ps tmm\\i, tmm4, tmm5",
            ".endr",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) TILE_INSTRUCTIONS / TILE_SUMS => _,
            options(nostack, nomem),
        );
    }
}
