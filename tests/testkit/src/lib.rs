//! What the tests of several crates share.
//!
//! It is below the crates whose tests use it, and knows none of them but the configurations: what
//! builds on more would be compiled twice, once for the crate and once for its tests.

mod chance;
#[cfg(feature = "configs")]
mod configs;
pub mod documented;
mod golden;
#[cfg(feature = "help")]
pub mod help;
mod skipped;
#[cfg(feature = "tensors")]
pub mod tensors;

pub use chance::Chance;
#[cfg(feature = "configs")]
pub use configs::resolved;
pub use golden::{golden, golden_json};
pub use skipped::skip;
