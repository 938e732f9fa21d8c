//! What only the CPU's forms have: instructions, packed layouts, rows that stay in bf16. What an
//! operation computes is tested once for all backends, in `operations/`; attention has a body here as
//! well, for heads that a GPU has no kernels for.

mod attention;
mod fixture;
#[path = "../instructions/mod.rs"]
mod instructions;
mod products;
mod said;
