//! A `tokenizer.json` in the words of GGUF.
//!
//! There are two kinds. A byte-level one is llama.cpp's `gpt2`: tokens, merges, and a name for the
//! way in which text is cut before merging. One that falls back to bytes is its `llama`, which
//! merges by the scores of tokens instead of by a list: a token gets the rank of the merge that
//! makes it, negated, which merges in the same order.

use std::collections::HashMap;
use std::fs;

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::pieces::{self, Prefix};
use crate::weights::ModelFiles;
use crate::weights::gguf::{CUTS, MERGED, TokenType, WHOLE};
use crate::{Error, Result};

/// Keys and values for a tokenizer.
pub(super) struct Described {
    pub metadata: Vec<(String, Value)>,
    /// What a person should hear of it.
    pub note: Option<String>,
}

/// The tokenizer of the model in `files`, a Hugging Face folder.
///
/// # Errors
/// It is of a kind that llama.cpp has no name for.
pub(super) fn describe(files: &ModelFiles) -> Result<Described> {
    let tokenizer = files.tokenizer()?;
    let path = files.path.join("tokenizer.json");
    let fault = |fault: String| Error::Export {
        path: path.clone(),
        fault,
    };
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let json: Json = serde_json::from_str(qlora_data::strict::unmarked(&text))
        .map_err(|e| fault(format!("is not JSON: {e}")))?;
    if json["model"]["type"] != "BPE" {
        return Err(fault(format!(
            "is of type {}, for which GGUF has no form here",
            json["model"]["type"]
        )));
    }
    let vocabulary = Vocabulary::read(&json, files.shape.vocabulary).map_err(&fault)?;
    let key = |name: &str, value: Value| (format!("tokenizer.ggml.{name}"), value);
    let strings = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    let merges = merges(&json);
    let mut note = None;
    let mut found = if json["model"]["byte_fallback"] == true {
        let prefix = pieces::prefix(&json).map_err(&fault)?;
        note = (prefix == Prefix::First).then(|| pieces::FIRST.to_owned());
        let scores = vocabulary.scores(&merges);
        vec![
            key("model", Value::String("llama".into())),
            key("pre", Value::String("default".into())),
            key(
                "scores",
                Value::Array(scores.into_iter().map(Value::F32).collect()),
            ),
            key("add_space_prefix", Value::Bool(prefix != Prefix::Never)),
        ]
    } else {
        let cut = cut(&json).ok_or_else(|| {
            fault("cuts text in a way that llama.cpp has no name for here".into())
        })?;
        vec![
            key("model", Value::String("gpt2".into())),
            key("pre", Value::String(cut.into())),
            key(
                "merges",
                strings(
                    merges
                        .into_iter()
                        .map(|(a, b)| format!("{a} {b}"))
                        .collect(),
                ),
            ),
        ]
    };
    let types = vocabulary
        .types
        .iter()
        .map(|&kind| Value::I32(kind as i32))
        .collect();
    found.extend([
        key("tokens", strings(vocabulary.tokens)),
        key("token_type", Value::Array(types)),
    ]);
    let id = |token: &str| tokenizer.token_to_id(token);
    let first = tokenizer
        .encode("a", true)
        .ok()
        .and_then(|e| e.get_ids().first().copied());
    let bos = id(&files.special.bos);
    found.push(key(
        "add_bos_token",
        Value::Bool(bos.is_some() && first == bos),
    ));
    let unknown = json["model"]["unk_token"].as_str().and_then(id);
    for (name, id) in [
        ("bos", bos),
        ("eos", id(&files.special.eos)),
        ("unknown", unknown),
    ] {
        found.extend(id.map(|id| key(&format!("{name}_token_id"), Value::U32(id))));
    }
    found.extend(super::super::text::template_keys(files.template.as_ref()));
    Ok(Described {
        metadata: found,
        note,
    })
}

/// Every id from 0 on.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<TokenType>,
}

impl Vocabulary {
    /// The tokens of `json`; ids up to `size` that it has none for are marked unused.
    fn read(json: &Json, size: usize) -> Result<Self, String> {
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![TokenType::Unused; size];
        let mut put = |id: Option<u64>, token: &str, kind: TokenType| {
            let id = id.filter(|&id| (id as usize) < size);
            let id = id
                .ok_or_else(|| format!("has `{token}` outside the model's {size} embeddings"))?
                as usize;
            (tokens[id], types[id]) = (token.to_owned(), kind);
            Ok::<_, String>(())
        };
        let unknown = json["model"]["unk_token"].as_str();
        for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
            let kind = match token.as_str() {
                token if Some(token) == unknown => TokenType::Unknown,
                token if is_byte(token) && json["model"]["byte_fallback"] == true => {
                    TokenType::Byte
                }
                _ => TokenType::Normal,
            };
            put(id.as_u64(), token, kind)?;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let token = added["content"].as_str().unwrap_or_default();
            let kind = match added["special"].as_bool() {
                _ if Some(token) == unknown => TokenType::Unknown,
                Some(true) => TokenType::Control,
                _ => TokenType::UserDefined,
            };
            put(added["id"].as_u64(), token, kind)?;
        }
        Ok(Self { tokens, types })
    }

    /// The rank of the merge that makes each token, negated; tokens that no merge makes come last.
    fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
        let score = |(token, kind): (&String, &TokenType)| match kind {
            TokenType::Normal => -(ranks.get(token).copied().unwrap_or(merges.len()) as f32),
            _ => 0.0,
        };
        self.tokens.iter().zip(&self.types).map(score).collect()
    }
}

/// Whether `token` stands for one byte, as `<0x0A>` does.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Merges in their order; older files have them as one text, newer ones as a pair.
fn merges(json: &Json) -> Vec<(String, String)> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text
            .split_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    json["model"]["merges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(pair)
        .collect()
}

/// llama.cpp's name for the way in which a byte-level tokenizer cuts text.
fn cut(json: &Json) -> Option<&'static str> {
    let pre = &json["pre_tokenizer"];
    let parts = pre["pretokenizers"]
        .as_array()
        .map_or(std::slice::from_ref(pre), Vec::as_slice);
    if let Some(pattern) = parts
        .iter()
        .find_map(|part| part["pattern"]["Regex"].as_str())
    {
        let merged = json["model"]["ignore_merges"] != true;
        let name = |name: &'static str| {
            if merged && name == WHOLE {
                MERGED
            } else {
                name
            }
        };
        let mut cuts = CUTS.iter();
        return cuts
            .find(|(known, _)| *known == pattern)
            .map(|(_, known)| name(known));
    }
    let is = |part: &Json, kind: &str| part["type"] == kind;
    // llama.cpp cuts with GPT-2's pattern and adds no space; without merges no cut makes a
    // difference.
    let merged = json["model"]["merges"]
        .as_array()
        .is_some_and(|merges| !merges.is_empty());
    let as_gpt2 = |part: &Json| {
        is(part, "ByteLevel")
            && part["add_prefix_space"] != true
            && (part["use_regex"] != false || !merged)
    };
    match parts {
        [bytes] if as_gpt2(bytes) => Some("gpt-2"),
        [digits, bytes]
            if is(digits, "Digits") && digits["individual_digits"] == true && as_gpt2(bytes) =>
        {
            Some("smollm")
        }
        _ => None,
    }
}
