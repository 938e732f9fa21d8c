//! From a model's shape, a configuration and a device to a memory plan, or to what does not fit and what would.
//!
//! Pure arithmetic: it opens no file and asks no device. The predictions are of the trainer's own policies (what it
//! keeps of each block), so that `qlora-ctl plan`, the coordinator's placement and the worker agree.

mod arrangement;
mod catalogue;
mod keep;
mod memory;
mod scratch;
mod shape;
mod thrift;
pub mod uploads;

pub use arrangement::{Arrangement, arrange};
pub use catalogue::{CatalogueEntry, ModelFormat, catalogue, find, held, quantized_twice};
pub use keep::{Keep, keeps};
pub use memory::{DeviceBudget, DoesNotFit, MemoryPlan, fit, on_host, plan, plan_with};
pub use shape::{ModelShape, RopeScaling};
pub use thrift::{Thrift, thrift};
