//! From chat data to tokens and loss masks.
//!
//! [`rows`] reads files of many forms; a row becomes a [`Conversation`]; a [`ChatTemplate`] renders
//! it as the model sees it and marks the assistant's text; an [`Encoder`] turns that into a
//! [`Sample`] of token ids and labels; a [`Sampler`] says which samples are trained on together,
//! and in which order. [`check`] holds every tool call against the JSON Schema of its tool,
//! [`audit`] does so for a whole file.
//!
//! Paths, limits and seeds are arguments; the only effects are to read the files at those paths,
//! and to keep samples in a folder for [`load_cached`] to find again. This crate knows no devices
//! and does not pad: its caller packs sequences one after another.

pub mod audit;
pub mod bfcl;
mod cache;
pub mod calls;
mod chat;
pub mod check;
mod covered;
mod dataset;
mod encode;
mod encoder;
mod guarded;
mod inspect;
mod message;
mod null_arguments;
mod nulls;
mod packing;
pub mod plain;
mod random;
mod reference;
mod row_error;
pub mod rows;
mod sampler;
mod shapes;
mod statistics;
pub mod strict;
mod template;
mod text;
mod told;
mod tool_call;
mod tool_list;
mod tools;
mod trained;
mod unread;

pub use cache::load_cached;
pub use chat::{Conversation, Example};
pub use dataset::{DatasetError, Policy, TooLong, examples, load};
pub use encode::{EncodeError, IGNORE, Sample, encode, encode_example};
pub use encoder::{Encoded, Encoder};
pub use inspect::{Inspected, inspect};
pub use random::SplitMix64;
pub use row_error::RowError;
pub use sampler::{Batching, Cursor, Sampler};
pub use statistics::Statistics;
pub use template::{
    ChatTemplate, Lacking, Loss, Lost, Rendered, SpecialTokens, TemplateError, Templates,
    Unwritten, WayOut,
};
pub use text::{ModelText, ModelTextError};
pub use told::named;
pub use tool_list::{ToolsError, tools_of};
pub use unread::note_unread;
