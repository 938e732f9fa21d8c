//! What only the CPU's forms have: instructions, packed layouts, rows that stay in bf16. What an
//! operation computes is tested once for all backends, in `operations/`.

mod fixture;
#[path = "../instructions/mod.rs"]
mod instructions;
mod products;
