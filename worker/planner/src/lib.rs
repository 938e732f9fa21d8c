//! From a model's shape, a configuration and a device to a memory plan, or to what does not fit and what would.
//!
//! Pure arithmetic: it opens no file and asks no device. The predictions are of the trainer's own policy (block
//! inputs kept, or everything kept), so that `qlora-ctl plan`, the coordinator's placement and the worker agree.

mod catalogue;
mod memory;
mod shape;

pub use catalogue::{CatalogueEntry, ModelFormat, catalogue, find};
pub use memory::{DeviceBudget, DoesNotFit, MemoryPlan, fit, plan};
pub use shape::{ModelShape, RopeScaling};
