//! From a model's shape, a configuration and a device to a memory plan, or to what does not fit and
//! what would.
//!
//! Pure arithmetic: it opens no file and asks no device. `policy` says what a run does with its
//! memory, `estimate` counts the bytes of a policy, `search` chooses one, `device` is what they
//! know of each kind of device. The policies are the trainer's own, so that `qlora-ctl plan`, the
//! coordinator's placement and the worker agree.

mod catalogue;
mod dense;
mod device;
mod estimate;
mod form;
mod policy;
mod quantization;
mod run;
mod saved;
mod search;
mod shape;
mod units;
pub mod uploads;

pub use catalogue::{CatalogueEntry, ModelFormat, catalogue, find, held, name_everywhere};
pub use dense::{DenseAttention, dense_attention};
pub use device::{FlashHeads, flash_heads};
pub use estimate::{MemoryPlan, estimate};
pub use form::{Activation, DecoderForm, EmbeddingScale, LayerForm, LayerRope, RopeScaling};
pub use policy::{LowMemory, MemoryPolicy};
pub use quantization::{WeightFormat, unmet_quantization};
pub use run::DeviceBudget;
pub use saved::SavedActivations;
pub use search::{DoesNotFit, fit, least, on_host, plan, search};
pub use shape::{Dimension, Misfit, ModelShape, Oversized, misfits};
