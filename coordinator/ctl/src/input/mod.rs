//! What a command takes in before it sends anything: a configuration, the model that it names, and
//! the files of rows.
//!
//! Everything that can be wrong with them is told from here. Nothing is printed as a result, and
//! of jobs nothing is known.

pub mod base;
pub mod checked;
pub mod local;
pub mod paths;
pub mod resolved;
pub mod rows;
pub mod source;
pub mod stored;
