//! GGUF files for llama.cpp and what is built on it: a model, merged with an adapter or not, and an
//! adapter alone.
//!
//! A base that is a GGUF file keeps its metadata and the blocks of every layer that the adapter
//! leaves as it is. A Hugging Face base gets metadata of its own ([`metadata`], [`tokenizer`]).
//! Rows of query and key projections change their order on the way where llama.cpp rotates
//! neighboring elements ([`rows`]), and norms of 1 + w are held as that sum. A model that llama.cpp
//! would compute differently is refused before anything is written ([`agreement`]).

mod adapter;
mod agreement;
mod elements;
mod metadata;
mod model;
mod pieces;
mod rotary;
mod rows;
mod tokenizer;
mod writer;

pub(super) use self::adapter::write as write_adapter;
pub use self::elements::ElementType;
pub(super) use self::model::write as write_model;
