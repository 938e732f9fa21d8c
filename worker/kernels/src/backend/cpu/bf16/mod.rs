//! Products in bf16 with `f32` sums: see [`multiply`].

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod few;
pub(crate) mod instructions;
pub(crate) mod multiply;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod panels;
pub(crate) mod peak;
mod portable;
mod target;
pub(crate) mod term;
pub(crate) mod unpack;
