//! Every operation on every backend that opens here, against the same in `f64`: one body an
//! operation. The reference forms are held to `f32`, native forms to the element type that they
//! compute in; sizes are multiples of nothing.
//!
//! With the `cuda` feature a GPU is one of the backends, where there is one, or the emulated one of
//! `emulated/build.sh`.

mod attention;
mod elements;
mod fixture;
#[path = "../instructions/mod.rs"]
mod instructions;
mod loss;
mod matrix;
mod moves;
mod nf4;
mod norms;
mod oracle;
mod products;
mod said;
mod slopes;
mod updates;
