//! The decoder: embedding, blocks, final norm, output layer.

mod arch;
pub mod attention;
mod batch;
pub mod block;
mod decoder;
mod inputs;
mod linear;
mod load;
mod mlp;
mod norm;
mod output;
mod parts;
mod pass;
mod rope;
mod rope_tables;

pub use arch::{ConfigFault, shape_from_json};
pub(crate) use arch::{
    GgufForm, GgufKeys, RopeForm, as_number, as_written, gguf_form, gguf_form_named, gguf_names,
};
pub use batch::Batch;
pub use decoder::{Decoder, Passed};
pub use parts::{NormPlace, Part};
pub(crate) use rope::{angles, inverse_frequencies, switch};
