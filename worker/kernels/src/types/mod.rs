//! Plain data that operations take and give: it knows no device and chooses nothing.

pub mod activations;
pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod forms;
pub mod glu;
pub mod instructions;
pub mod lora;
pub mod loss;
pub mod matmul;
pub mod matrix;
pub mod nf4;
pub mod norm;
pub mod offload;
pub mod options;
pub mod properties;
pub mod rope;
pub(crate) mod rows;
pub mod sequences;
