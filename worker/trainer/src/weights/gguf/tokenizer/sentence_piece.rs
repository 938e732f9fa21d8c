//! SentencePiece's BPE, as the files of Llama 2 and Mistral 7B hold it: tokens with scores.
//!
//! SentencePiece merges the two neighbors whose token has the best score; `tokenizers` merges by a
//! list. So there is one entry in the list for every way to make a token of two others, the tokens
//! with the best scores first, as in transformers. A letter that is no token becomes the tokens of
//! its bytes.

use std::cmp::Reverse;
use std::collections::HashSet;

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Sequence as Normalizers};
use tokenizers::processors::PostProcessorWrapper;

use super::keys::{Fault, Keys};
use super::vocabulary::{TokenType, Vocabulary};

/// What stands for a space in a token.
const SPACE: &str = "▁";

pub(super) fn read(keys: &Keys<'_>, vocabulary: &Vocabulary) -> Result<Tokenizer, Fault> {
    refuse_what_is_not_done(keys)?;
    let merges = merges(vocabulary, &vocabulary.scores(keys)?);
    let ids: Vocab = vocabulary.tokens.iter().cloned().zip(0..).collect();
    let mut bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .fuse_unk(true)
        .byte_fallback(true);
    if let Some(unknown) = vocabulary.unknown {
        bpe = bpe.unk_token(vocabulary.tokens[unknown as usize].clone());
    }
    let fault = |e: tokenizers::Error| e.to_string();
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(fault)?);
    let prefix = keys.flag("add_space_prefix")?.unwrap_or(true);
    tokenizer
        .with_normalizer(Some(normalizer(prefix)?))
        .map_err(fault)?;
    tokenizer.with_decoder(Some(decoder(prefix)?));
    tokenizer.with_post_processor(vocabulary.ends(keys, true)?.map(PostProcessorWrapper::from));
    vocabulary.add_to(&mut tokenizer)?;
    Ok(tokenizer)
}

fn refuse_what_is_not_done(keys: &Keys<'_>) -> Result<(), Fault> {
    let refused = |what: String| Err(Fault::Unsupported(format!("`tokenizer.ggml.{what}")));
    if let Some(pre) = keys.text("pre")?.filter(|pre| *pre != "default") {
        return refused(format!(
            "pre: {pre}` is not read beside `tokenizer.ggml.model: llama`; default is"
        ));
    }
    if keys.flag("remove_extra_whitespaces")? == Some(true) {
        return refused("remove_extra_whitespaces: true` is not implemented".into());
    }
    if keys
        .list("precompiled_charsmap")?
        .is_some_and(|map| !map.is_empty())
    {
        return refused("precompiled_charsmap` is not implemented".into());
    }
    Ok(())
}

/// Every way to make a token of two, in the order in which they are tried.
fn merges(vocabulary: &Vocabulary, scores: &[f64]) -> Vec<(String, String)> {
    let is_text = |id: &usize| vocabulary.types[*id] == TokenType::Normal;
    let ids: Vec<usize> = (0..vocabulary.tokens.len()).filter(is_text).collect();
    let known: HashSet<&str> = ids
        .iter()
        .map(|&id| vocabulary.tokens[id].as_str())
        .collect();
    let mut found = Vec::new();
    for id in ids {
        let token = vocabulary.tokens[id].as_str();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if known.contains(left) && known.contains(right) {
                found.push((scores[id], left, right));
            }
        }
    }
    // Scores are finite. Of the ways to make one token, that with the longest beginning comes
    // first.
    let length = |part: &str| Reverse(part.chars().count());
    found.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| length(a.1).cmp(&length(b.1)))
    });
    found
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

/// Text gets a space before its first letter, and after every token that was cut out of it, as in
/// llama.cpp.
fn normalizer(prefix: bool) -> Result<NormalizerWrapper, String> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        steps.push(Prepend::new(SPACE.to_owned()).into());
    }
    steps.push(Replace::new(" ", SPACE).map_err(|e| e.to_string())?.into());
    Ok(Normalizers::new(steps).into())
}

fn decoder(prefix: bool) -> Result<DecoderWrapper, String> {
    let spaces = Replace::new(SPACE, " ").map_err(|e| e.to_string())?;
    let mut steps: Vec<DecoderWrapper> = vec![
        spaces.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    if prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(steps).into())
}
