//! From chat data to tokens and loss masks.
//!
//! A row of JSON becomes a [`Conversation`]; a [`ChatTemplate`] renders it as the model sees it and marks the
//! assistant's text; [`encode`] turns that into a [`Sample`] of token ids and labels; a [`Sampler`] says in which
//! order samples are learnt from. [`check`] holds every tool call against the JSON Schema of its tool.
//!
//! Pure: readers, limits and seeds are arguments. This crate does not open files, does not know devices, and
//! does not pad: sequences are packed one after another by whoever runs them.

pub mod bfcl;
mod chat;
pub mod check;
mod dataset;
mod encode;
mod json;
mod sampler;
mod template;
mod turns;

pub use chat::{Conversation, RowError};
pub use dataset::{DatasetError, Lines, Policy, Statistics, TooLong, load, parse_rows};
pub use encode::{EncodeError, IGNORE, Sample, encode};
pub use sampler::{Cursor, Sampler};
pub use template::{ChatTemplate, Rendered, SpecialTokens, TemplateError};
