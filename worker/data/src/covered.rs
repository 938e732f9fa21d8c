//! Characters that a tokenizer drops silently: BPE without an unknown token leaves out what its
//! vocabulary lacks, and gives later tokens offsets that are too low.

use tokenizers::models::bpe::BPE;
use tokenizers::{
    Model, ModelWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Result,
    Tokenizer,
};

/// A character of `text` that its tokens do not cover.
pub(crate) fn dropped(tokenizer: &Tokenizer, text: &str) -> Result<Option<char>> {
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else {
        return Ok(None);
    };
    if bpe.unk_token.is_some() || has_all_bytes(tokenizer, bpe)? {
        return Ok(None);
    }
    let Some((part, (start, end))) = lacking_part(tokenizer, bpe, text)? else {
        return Ok(None);
    };
    // The part may be written in other characters than the text, such as those of bytes.
    let given = text.get(start..end).unwrap_or_default();
    for letter in given.chars() {
        if lacking_part(tokenizer, bpe, letter.encode_utf8(&mut [0; 4]))?.is_some() {
            return Ok(Some(letter));
        }
    }
    Ok(given.chars().next().or_else(|| part.chars().next()))
}

type Part = (String, (usize, usize));

/// The first part of `text` that holds what the vocabulary lacks, and where it stands.
fn lacking_part(tokenizer: &Tokenizer, bpe: &BPE, text: &str) -> Result<Option<Part>> {
    let mut parts = tokenizer
        .get_added_vocabulary()
        .extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(cut) = tokenizer.get_pre_tokenizer() {
        cut.pre_tokenize(&mut parts)?;
    }
    let parts = parts.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let lacks = |part: &str| {
        part.char_indices()
            .any(|(at, letter)| !knows(bpe, part, at, letter))
    };
    let whole = |part: &str| bpe.ignore_merges && bpe.token_to_id(part).is_some();
    let found = parts
        .into_iter()
        .find(|(part, _, tokens)| tokens.is_none() && !whole(part) && lacks(part));
    Ok(found.map(|(part, place, _)| (part.to_owned(), place)))
}

/// Whether there is a token for the character at `at` of `part`, or for each of its bytes.
fn knows(bpe: &BPE, part: &str, at: usize, letter: char) -> bool {
    let end = at + letter.len_utf8();
    let prefix = bpe
        .continuing_subword_prefix
        .as_deref()
        .filter(|_| at > 0)
        .unwrap_or_default();
    let suffix = bpe
        .end_of_word_suffix
        .as_deref()
        .filter(|_| end == part.len())
        .unwrap_or_default();
    let known = bpe
        .token_to_id(&format!("{prefix}{letter}{suffix}"))
        .is_some();
    let byte = |byte: u8| bpe.token_to_id(&format!("<0x{byte:02X}>")).is_some();
    known || (bpe.byte_fallback && part[at..end].bytes().all(byte))
}

/// Whether texts are cut into bytes, all of which the vocabulary has, as in most models.
fn has_all_bytes(tokenizer: &Tokenizer, bpe: &BPE) -> Result<bool> {
    let Some(cut) = tokenizer.get_pre_tokenizer() else {
        return Ok(false);
    };
    let mut probe = PreTokenizedString::from("\u{fc}");
    cut.pre_tokenize(&mut probe)?;
    let parts = probe.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    let cuts_bytes = parts
        .iter()
        .map(|(part, ..)| *part)
        .collect::<String>()
        .ends_with("\u{c3}\u{bc}");
    let has = |letter: char| bpe.token_to_id(letter.encode_utf8(&mut [0; 4])).is_some();
    // The characters of the 256 bytes: 188 stand for themselves, the others are those from U+0100
    // on.
    let mut letters = ('!'..='~')
        .chain('\u{a1}'..='\u{ac}')
        .chain('\u{ae}'..='\u{ff}')
        .chain('\u{100}'..='\u{143}');
    Ok(cuts_bytes && letters.all(has))
}
