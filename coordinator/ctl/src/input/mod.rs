//! What a command takes in before it sends anything: a configuration, the model that it names, and
//! the files of rows.
//!
//! This module reports everything that can be wrong with them. It prints no results and knows
//! nothing about jobs.

pub mod base;
pub mod checked;
pub mod local;
pub mod paths;
pub mod resolved;
pub mod rows;
pub mod source;
pub mod stored;
