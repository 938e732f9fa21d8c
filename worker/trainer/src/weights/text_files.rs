//! The files of a folder that its text is made of, held against each other before they are used:
//! what one says of a token does not contradict tokenizer.json, and may add to it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::files::read_json;
use super::plain;
use crate::{Error, Result};

const SETTINGS: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";
/// Keys that each name one token.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const CORRECT: &str = "correct the key, or take the tokenizer.json that belongs to it";

/// Holds what the files of `folder` say of tokens against `tokenizer`, and gives it those that they
/// add, as transformers does; returns what a person should hear of these.
///
/// # Errors
/// They have a token under another id, or name none by its text; or the tokenizer gives other
/// tokens each time.
pub(super) fn agree(folder: &Path, tokenizer: &mut Tokenizer) -> Result<Option<String>> {
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && let Some(dropout) = bpe.dropout.filter(|dropout| *dropout > 0.0)
    {
        return Err(Error::Model {
            path: folder.join("tokenizer.json"),
            fault: format!(
                "`model.dropout` is {dropout}, with which a text has other tokens each time"
            ),
            help: "set it to null",
        });
    }
    let settings = optional(&folder.join(SETTINGS))?;
    one_text(&folder.join(SETTINGS), &settings)?;
    let mut lacking = Vec::new();
    let listed = settings["added_tokens_decoder"].as_object();
    for (id, token) in listed.into_iter().flatten() {
        let text = token["content"].as_str().or(token.as_str());
        let path = folder.join(SETTINGS);
        let found = lacks("`added_tokens_decoder`", text, id.parse().ok(), tokenizer);
        let found = found.map_err(of(&path))?;
        lacking.extend(found.map(|(id, text)| (id, path, with_settings(text, token))));
    }
    let added = optional(&folder.join(ADDED))?;
    for (text, id) in added.as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let path = folder.join(ADDED);
        let found = lacks("it", Some(text), id, tokenizer).map_err(of(&path))?;
        lacking.extend(found.map(|(id, text)| (id, path, AddedToken::from(text, false))));
    }
    lacking.sort_by_key(|(id, ..)| *id);
    give(lacking, tokenizer)
}

/// The token `text` as `settings` describe it; what they leave out is as transformers has it.
fn with_settings(text: &str, settings: &Value) -> AddedToken {
    let is = |key: &str| settings[key].as_bool();
    let token = AddedToken::from(text, is("special").unwrap_or_default());
    let normalized = is("normalized").unwrap_or(token.normalized);
    token
        .normalized(normalized)
        .lstrip(is("lstrip").unwrap_or_default())
        .rstrip(is("rstrip").unwrap_or_default())
        .single_word(is("single_word").unwrap_or_default())
}

/// Gives `tokenizer` the tokens `lacking`, which ascend by their ids; each with the file that has
/// it.
///
/// # Errors
/// One gets another id than its file has: transformers counts on from the last one too.
fn give(
    lacking: Vec<(u32, PathBuf, AddedToken)>,
    tokenizer: &mut Tokenizer,
) -> Result<Option<String>> {
    let mut given = Vec::new();
    for (id, path, token) in lacking {
        let text = token.content.clone();
        // Both files may have it.
        if tokenizer.token_to_id(&text) == Some(id) {
            continue;
        }
        let added = tokenizer.add_tokens([token]);
        added.map_err(|e| of(&path)(format!("`{text}` cannot be a token: {e}")))?;
        let own = tokenizer.token_to_id(&text);
        if own != Some(id) {
            let own = own.map_or_else(|| "none".to_owned(), |own| own.to_string());
            return Err(of(&path)(format!(
                "it has `{text}` as token {id}, and tokenizer.json, which lacks it, would have it as {own}"
            )));
        }
        given.push(format!("`{text}` ({id})"));
    }
    let names = given.join(", ");
    Ok((!given.is_empty()).then(|| {
        format!(
            "tokenizer.json lacks {names}, which a file beside it has: added, as by transformers; a row with a token beyond the model's vocabulary is refused"
        )
    }))
}

fn of(path: &Path) -> impl Fn(String) -> Error {
    move |fault| Error::Model {
        path: path.into(),
        fault,
        help: CORRECT,
    }
}

/// The id and the text that `who` has and `tokenizer` does not; none where both have them.
///
/// # Errors
/// One of the two is missing, or `tokenizer` has another id.
fn lacks<'t>(
    who: &str,
    text: Option<&'t str>,
    id: Option<u32>,
    tokenizer: &Tokenizer,
) -> Result<Option<(u32, &'t str)>, String> {
    let (Some(text), Some(id)) = (text, id) else {
        return Err(format!(
            "{who} has an entry without a text or without an id"
        ));
    };
    match tokenizer.token_to_id(text) {
        Some(own) if own == id => Ok(None),
        Some(own) => Err(format!(
            "{who} has `{text}` as token {id}, and tokenizer.json has it as {own}"
        )),
        None => Ok(Some((id, text))),
    }
}

/// Refuses keys of special tokens that name none by its text.
fn one_text(path: &Path, settings: &Value) -> Result<()> {
    let is_text =
        |value: &Value| value.is_null() || value.is_string() || value["content"].is_string();
    match SPECIAL.iter().find(|key| !is_text(&settings[**key])) {
        Some(key) => Err(of(path)(format!(
            "`{key}` is {}, not the text of a token",
            settings[*key]
        ))),
        None => Ok(()),
    }
}

/// The JSON of a file; null where it is missing.
fn optional(path: &Path) -> Result<Value> {
    // A link to nothing is not a file that is missing.
    plain::check(path)?;
    if path.exists() {
        read_json(path)
    } else {
        Ok(Value::Null)
    }
}
