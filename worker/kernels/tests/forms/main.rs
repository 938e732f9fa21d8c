//! Every fast form against its reference form, and every backward pass against numerical
//! differences of the forward pass, at sizes that are multiples of nothing.

mod attention;
mod elements;
mod fixture;
#[path = "../instructions/mod.rs"]
mod instructions;
mod products;
