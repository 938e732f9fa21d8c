//! A frozen linear layer with its adapter.
//!
//! `layer` is the frozen layer; `lora` and `dora` are the kinds of adapters, each with its forward
//! pass, what that saves, and its backward pass; `forward` and `backward` go through a layer with
//! whichever it has. Adapters are kept elsewhere and passed in.

mod backward;
mod dora;
mod forward;
mod layer;
mod lora;
mod saved;

pub use backward::{LinearGrad, backward, backward_on};
pub use forward::lora_forward;
pub use layer::Linear;
pub use saved::AdapterSaved;

#[cfg(test)]
mod tests;
