//! Attention on a CPU, in bf16 and in `f32`.

pub(crate) mod bf16;
pub(crate) mod f32;
pub(crate) mod heads;
