//! The files of a folder that its text is made of, held against each other before they are used:
//! what one says of a token, tokenizer.json says too.

use std::path::Path;

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

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

/// Refuses what the files of `folder` say of tokens that `tokenizer` does not, and a tokenizer that
/// gives other tokens each time.
pub(super) fn agree(folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
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
    let listed = settings["added_tokens_decoder"].as_object();
    for (id, token) in listed.into_iter().flatten() {
        let text = token["content"].as_str().or(token.as_str());
        let (path, id) = (folder.join(SETTINGS), id.parse().ok());
        same("added_tokens_decoder", text, id, tokenizer).map_err(of(&path))?;
    }
    let added = optional(&folder.join(ADDED))?;
    for (text, id) in added.as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        same("it", Some(text), id, tokenizer).map_err(of(&folder.join(ADDED)))?;
    }
    Ok(())
}

fn of(path: &Path) -> impl Fn(String) -> Error {
    move |fault| Error::Model {
        path: path.into(),
        fault,
        help: CORRECT,
    }
}

/// Whether `tokenizer` has `id` for `text`, as `who` has.
fn same(
    who: &str,
    text: Option<&str>,
    id: Option<u32>,
    tokenizer: &Tokenizer,
) -> Result<(), String> {
    let who = if who == "it" {
        who.to_owned()
    } else {
        format!("`{who}`")
    };
    let (Some(text), Some(id)) = (text, id) else {
        return Err(format!(
            "{who} has an entry without a text or without an id"
        ));
    };
    match tokenizer.token_to_id(text) {
        Some(own) if own == id => Ok(()),
        Some(own) => Err(format!(
            "{who} has `{text}` as token {id}, and tokenizer.json has it as {own}"
        )),
        None => Err(format!(
            "{who} has `{text}` as token {id}, which is no token of tokenizer.json"
        )),
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
