//! The tokenizer of a GGUF file: byte-level ([`byte_level`], llama.cpp's `gpt2`) or SentencePiece's
//! BPE ([`sentence_piece`], llama.cpp's `llama`).

mod byte_level;
mod keys;
mod sentence_piece;
mod vocabulary;

use candle_core::quantized::gguf_file::Content;
use tokenizers::Tokenizer;

use self::keys::Keys;
use self::vocabulary::Vocabulary;

pub(crate) use self::byte_level::{CUTS, MERGED, WHOLE};
pub(crate) use self::keys::Fault;
pub(crate) use self::vocabulary::TokenType;

/// Keys of truth values.
const FLAGS: [&str; 8] = [
    "add_bos_token",
    "add_eos_token",
    "add_sep_token",
    "add_space_prefix",
    "do_lower_case",
    "escape_whitespaces",
    "ignore_merges",
    "remove_extra_whitespaces",
];

pub(super) fn read(content: &Content) -> Result<Tokenizer, Fault> {
    let keys = Keys(&content.metadata);
    // Whether or not the kind of tokenizer looks at them.
    for name in FLAGS {
        keys.flag(name)?;
    }
    match keys.required("model", keys.text("model")?)? {
        "gpt2" => byte_level::read(content, &keys, &Vocabulary::read(&keys)?),
        "llama" => sentence_piece::read(&keys, &Vocabulary::read(&keys)?),
        other => Err(Fault::Unsupported(format!(
            "`tokenizer.ggml.model: {other}` is not read; gpt2 and llama are"
        ))),
    }
}

/// The id under `tokenizer.ggml.<which>_token_id` and its text; none where the file has no such
/// key.
///
/// # Errors
/// It is no id of a token, by the name of the key.
pub(super) fn special_token(
    content: &Content,
    which: &str,
) -> Result<Option<(u32, String)>, String> {
    let keys = Keys(&content.metadata);
    let name = format!("{which}_token_id");
    let Some(id) = keys.id(&name)? else {
        return Ok(None);
    };
    let tokens = keys.required("tokens", keys.list("tokens")?)?;
    let token = tokens
        .get(id as usize)
        .and_then(|token| token.to_string().ok());
    let fault = || {
        format!(
            "`tokenizer.ggml.{name}` is {id}, which is none of the {} tokens",
            tokens.len()
        )
    };
    token
        .map(|token| Some((id, token.clone())))
        .ok_or_else(fault)
}
