//! One operation a file: reference form, dispatch, and the backward pass beside the forward pass.

pub mod activations;
pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod host;
pub mod lora;
pub mod nf4;
pub mod noise;
pub mod product;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod sequences;
pub mod swiglu;
