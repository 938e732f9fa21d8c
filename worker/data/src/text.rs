//! What a model's folder says about text: tokenizer, chat templates, special tokens. It reads no
//! weights.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::guarded::guarded;
use crate::plain::{self, Unopened};
use crate::strict;
use crate::template::{ChatTemplate, Lacking, SpecialTokens, Templates};

/// Folder of the templates that stand beside the default one.
const ADDITIONAL: &str = "additional_chat_templates";
const SETTINGS: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
/// Keys of one special token, and of several.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const SEVERAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The text side of a Hugging Face folder.
#[derive(Debug)]
pub struct ModelText {
    pub tokenizer: Option<Tokenizer>,
    pub template: Option<Templates>,
    pub special: SpecialTokens,
    /// Ids from here on are not in the model's matrices; unknown where the folder has no
    /// `config.json`.
    pub vocabulary: Option<usize>,
}

/// Why the files of a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct ModelTextError {
    pub path: PathBuf,
    pub fault: String,
}

impl ModelText {
    /// Reads the tokenizer, its settings and the chat templates, each where it is there, as
    /// transformers does.
    ///
    /// # Errors
    /// A file is there and cannot be read, or is not what its name says.
    pub fn open(folder: &Path) -> Result<Self, ModelTextError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = match read(&path)? {
            Some(text) => Some(
                whole_rows(&text).map_err(|e| fault(&path, format!("it is no tokenizer: {e}")))?,
            ),
            None => None,
        };
        let settings = json(&folder.join(SETTINGS))?;
        let map = json(&folder.join(MAP))?;
        let config = json(&folder.join("config.json"))?;
        let size = config["vocab_size"]
            .as_u64()
            .or_else(|| config["text_config"]["vocab_size"].as_u64());
        let token = |key: &str| {
            let text = |value: &Value| token_text(value).map(str::to_owned);
            text(&settings[key])
                .or_else(|| text(&map[key]))
                .unwrap_or_default()
        };
        for (name, values) in [(SETTINGS, &settings), (MAP, &map)] {
            if let Some((key, text)) = tokenizer
                .as_ref()
                .and_then(|tokenizer| foreign_token(values, tokenizer))
            {
                let text = format!(
                    "`{key}` is `{text}`, which is no token of tokenizer.json; correct the key, or take the tokenizer.json that belongs to it"
                );
                return Err(fault(&folder.join(name), text));
            }
        }
        Ok(Self {
            tokenizer,
            template: Some(templates(folder, &settings)?).filter(|templates| !templates.is_empty()),
            special: SpecialTokens {
                bos: token("bos_token"),
                eos: token("eos_token"),
            },
            vocabulary: size.and_then(|size| usize::try_from(size).ok()),
        })
    }

    /// The template that `wanted` names: `auto` is the model's own.
    ///
    /// # Errors
    /// The model has none, or it does not compile.
    pub fn chat_template(&self, wanted: &str) -> Result<ChatTemplate, Lacking> {
        ChatTemplate::choose(wanted, self.template.as_ref(), &self.special)
    }
}

/// The text of a special token, which is written alone or with its settings.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A special token that `values` name and `tokenizer` does not have, with its key: transformers
/// would give it an id that the model lacks.
fn foreign_token<'v>(values: &'v Value, tokenizer: &Tokenizer) -> Option<(&'static str, &'v str)> {
    let one = SPECIAL.iter().map(|key| (*key, &values[*key]));
    let several = SEVERAL.iter().flat_map(|key| {
        let list = values[*key].as_array().into_iter().flatten();
        let named = values[*key]
            .as_object()
            .into_iter()
            .flat_map(|map| map.values());
        list.chain(named).map(|value| (*key, value))
    });
    let texts = one
        .chain(several)
        .filter_map(|(key, value)| Some((key, token_text(value)?)));
    texts
        .filter(|(_, text)| !text.is_empty())
        .find(|(_, text)| tokenizer.token_to_id(text).is_none())
}

/// The tokenizer that `text` holds, without the truncation and padding that it was saved with:
/// transformers encodes without both.
///
/// # Errors
/// It is not JSON, or no tokenizer. The library panics at some texts of both kinds; those that are
/// not JSON are told by their place.
fn whole_rows(text: &str) -> tokenizers::Result<Tokenizer> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)?;
    let mut tokenizer: Tokenizer = guarded(|| text.parse::<Tokenizer>())??;
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// Separate files stand in place of all templates of the tokenizer's settings, and these of the
/// older `chat_template.json`.
fn templates(folder: &Path, settings: &Value) -> Result<Templates, ModelTextError> {
    let setting = |value: &Value, path: &str| {
        Templates::from_setting(&value["chat_template"])
            .map_err(|text| fault(&folder.join(path), text))
    };
    let files = separate(folder)?;
    if !files.is_empty() {
        return Ok(files);
    }
    let templates = setting(settings, SETTINGS)?;
    if !templates.is_empty() {
        return Ok(templates);
    }
    let older = "chat_template.json";
    setting(&json(&folder.join(older))?, older)
}

/// `chat_template.jinja`, which is the default, and those in a folder of their own, each under its
/// name.
fn separate(folder: &Path) -> Result<Templates, ModelTextError> {
    let mut templates = Templates::default();
    if let Some(source) = read(&folder.join("chat_template.jinja"))? {
        templates = templates.with(None, source);
    }
    for path in additional(&folder.join(ADDITIONAL))? {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(source) = read(&path)? {
            templates = templates.with(Some(&name), source);
        }
    }
    Ok(templates)
}

fn additional(folder: &Path) -> Result<Vec<PathBuf>, ModelTextError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut paths = entries.map_err(|e| fault(folder, format!("cannot be read: {e}")))?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "jinja"));
    paths.sort();
    Ok(paths)
}

/// The text of a file; none where it is missing.
fn read(path: &Path) -> Result<Option<String>, ModelTextError> {
    match plain::text(path) {
        Ok(text) => Ok(Some(strict::unmarked(&text).to_owned())),
        Err(Unopened::Io(e)) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fault(path, e.to_string())),
    }
}

fn json(path: &Path) -> Result<Value, ModelTextError> {
    let Some(text) = read(path)? else {
        return Ok(Value::Null);
    };
    strict::parse_settings(&text).map_err(|e| fault(path, format!("it is not read as JSON: {e}")))
}

fn fault(path: &Path, fault: String) -> ModelTextError {
    ModelTextError {
        path: path.to_owned(),
        fault,
    }
}
