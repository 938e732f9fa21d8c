//! The decoder: embedding, blocks, final norm, output layer.

pub mod block;
mod config;
mod decoder;
mod projection;
mod rope;

pub use config::{ConfigFault, shape_from_json};
pub use decoder::{Batch, Decoder, Passed};
pub use projection::{AdapterPass, Projection};
pub(crate) use rope::inverse_frequencies;
