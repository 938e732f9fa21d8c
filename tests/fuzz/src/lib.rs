//! What fuzz targets share.
//!
//! A [`Target`] takes seeds, changes them at random, and gives them to a check that panics where a
//! property does not hold. Under `cargo test` it stops after a short time; `QLORA_FUZZ_SECONDS`
//! makes it go on for as long as a person wants. An input that is made by other means than bytes is
//! given to [`cases`]. This crate knows no format: a target brings its seeds and its words.

mod bounds;
mod edit;
mod input;
mod run;
mod seeds;
mod target;

pub use run::cases;
pub use target::Target;
