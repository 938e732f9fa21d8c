//! Attention in bf16 with `f32` sums, on the block kernels of [`bf16`](crate::backend::cpu::bf16).
//!
//! A task is one head of one span, with a tile of query rows at a time. Keys and values are packed
//! once a head. The backward pass rebuilds the probabilities of a tile from its log-sum-exp and
//! sums dK and dV transposed, [E, T], because then both the probabilities and their gradients enter
//! their products as panels, which are cheap to make from rows, and never have to be transposed
//! themselves.

pub(crate) mod backward;
pub(crate) mod forward;
mod tiles;
