//! The decoder: embedding, blocks, final norm, output layer.

mod arch;
pub mod block;
mod decoder;
mod output;
mod projection;
mod rope;

pub use arch::{ConfigFault, shape_from_json};
pub use decoder::{Batch, Decoder, Passed};
pub use projection::Projection;
pub(crate) use rope::inverse_frequencies;
