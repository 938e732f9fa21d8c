//! A byte-level tokenizer of a GGUF file.
//!
//! candle builds it, but takes GPT-2's way of cutting text, with a space before the first word, for
//! every name that it does not know, among them Llama 3's. Here the cut is the one that the file
//! names, or the file is refused.

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{ModelWrapper, SplitDelimiterBehavior, Tokenizer};

use super::keys::{Fault, Keys};
use super::vocabulary::Vocabulary;

/// The ways of cutting text that models supported here use, by the pattern of their pre-tokenizer,
/// and llama.cpp's names for them (`src/llama-vocab.cpp`).
pub(crate) const CUTS: [(&str, &str); 4] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "gpt-4o",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken",
    ),
];
/// The name of a cut after which words that are tokens stay whole, and that of the same cut after
/// which they are merged like any other.
pub(crate) const WHOLE: &str = "llama-bpe";
pub(crate) const MERGED: &str = "smaug-bpe";
const KINDS: &str =
    "gpt-2, smollm, refact, llama-bpe, smaug-bpe, dbrx, qwen2, gpt-4o and tekken are read";

pub(super) fn read(
    content: &Content,
    keys: &Keys<'_>,
    vocabulary: &Vocabulary,
) -> Result<Tokenizer, Fault> {
    let pre = keys.required("pre", keys.text("pre")?)?;
    let cut = pre_tokenizer(pre)?;
    let mut tokenizer = Tokenizer::from_gguf(content).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(cut));
    // candle takes tokens that a user defined for special, and leaves them out of an answer.
    vocabulary.add_to(&mut tokenizer)?;
    // So in llama.cpp: a word that is a token stays whole, whatever the merges say.
    if matches!(known_name(pre), WHOLE | "tekken")
        && let ModelWrapper::BPE(bpe) = tokenizer.get_model()
    {
        let mut bpe = bpe.clone();
        bpe.ignore_merges = true;
        tokenizer.with_model(bpe);
    }
    Ok(tokenizer)
}

/// One of several names for the same cut.
fn known_name(pre: &str) -> &str {
    match pre {
        "llama3" | "llama-v3" => WHOLE,
        "gpt2" => "gpt-2",
        "dbrx" => MERGED,
        "refact" => "smollm",
        other => other,
    }
}

fn pre_tokenizer(pre: &str) -> Result<PreTokenizerWrapper, Fault> {
    let bytes = |regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    match known_name(pre) {
        "gpt-2" => Ok(bytes(true)),
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into()),
        name => {
            let cut = if name == MERGED { WHOLE } else { name };
            let cut = CUTS.iter().find(|(_, known)| *known == cut);
            let (pattern, _) = cut.ok_or_else(|| {
                Fault::Unsupported(format!("`tokenizer.ggml.pre: {pre}` is not known; {KINDS}"))
            })?;
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| e.to_string())?;
            Ok(Sequence::new(vec![split.into(), bytes(false)]).into())
        }
    }
}
