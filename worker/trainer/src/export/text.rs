//! The text side of a merged model: the template that the adapter was trained with, and the token
//! that it ends a turn with as end of text. Programs that serve the model render with what lies in
//! its files; another prompt than that of the training gives poor answers that do not end.

use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use qlora_data::{ChatTemplate, Templates};
use serde_json::{Value as Json, json};

use crate::adapter::{self, TEMPLATE};
use crate::generate::end_of_turn;
use crate::weights::ModelFiles;
use crate::{Error, Result};

/// Where transformers reads templates that have a name.
const ADDITIONAL: &str = "additional_chat_templates";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The name of the template without a name.
const DEFAULT: &str = "default";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// What an adapter was trained to read and to end with.
pub(super) struct Trained {
    template: String,
    /// Id and text of the end of its turns.
    end: Option<(u32, String)>,
}

/// What the adapter in `folder` was trained with, on the model in `files`; none where it does not
/// say.
pub(super) fn trained(folder: &Path, files: &ModelFiles) -> Result<Option<Trained>> {
    let Some(template) = adapter::template::text(folder)? else {
        return Ok(None);
    };
    let compiled = ChatTemplate::new(&template, files.special.clone())?;
    let tokenizer = files.tokenizer()?;
    let end =
        end_of_turn(tokenizer, &compiled).and_then(|id| Some((id, tokenizer.id_to_token(id)?)));
    Ok(Some(Trained { template, end }))
}

impl Trained {
    /// What changes against the model in `files`, for a person.
    pub(super) fn notes(&self, files: &ModelFiles) -> Vec<String> {
        let mut notes = Vec::new();
        let base = files
            .template
            .as_ref()
            .and_then(|own| own.iter().find(|(name, _)| *name == "default"));
        if base.map(|(_, source)| source) != Some(&self.template) {
            notes.push(
                "the chat template is the adapter's, which differs from the base's".to_owned(),
            );
        }
        let own = files
            .template
            .iter()
            .flat_map(|own| own.iter())
            .map(|(name, _)| name)
            .filter(|name| *name != DEFAULT);
        notes.extend(own.map(|name| {
            format!("the base's template `{name}` is kept beside it; the adapter was not trained with that one")
        }));
        match &self.end {
            Some((_, text)) if *text != files.special.eos => {
                let eos = &files.special.eos;
                notes.push(format!(
                    "the end of text is `{text}`, the adapter's end of turn; the base has `{eos}`"
                ));
            }
            Some(_) => {}
            None => notes.push(
                "the adapter's template ends a turn with no token of its own; eos stays the base's"
                    .into(),
            ),
        }
        notes
    }

    /// Changes the files in `folder`, a copy of those of the base.
    pub(super) fn write_into(&self, folder: &Path, base: Option<&Templates>) -> Result<()> {
        fs::write(folder.join(TEMPLATE), &self.template)
            .map_err(Error::io(folder.join(TEMPLATE)))?;
        write_named(folder, base)?;
        change(&folder.join("tokenizer_config.json"), |settings| {
            // The file beside it counts; two that differ would be two readings.
            settings
                .as_object_mut()
                .map(|settings| settings.remove("chat_template"));
            if let Some((_, text)) = &self.end {
                settings["eos_token"] = json!(text);
            }
        })?;
        let Some((id, text)) = &self.end else {
            return Ok(());
        };
        change(&folder.join("special_tokens_map.json"), |map| {
            map["eos_token"] = json!(text)
        })?;
        change(&folder.join("config.json"), |config| {
            config["eos_token_id"] = json!(id)
        })?;
        change(&folder.join("generation_config.json"), |config| {
            // What ended an answer of the base still does.
            let before = config["eos_token_id"].take();
            let before = before.as_array().cloned().unwrap_or_else(|| vec![before]);
            let others = before
                .into_iter()
                .filter(|other| !other.is_null() && *other != json!(id));
            let all: Vec<Json> = std::iter::once(json!(id)).chain(others).collect();
            config["eos_token_id"] = if all.len() == 1 {
                json!(id)
            } else {
                Json::Array(all)
            };
        })
    }

    /// Changes the keys of a GGUF file.
    pub(super) fn write_keys(&self, metadata: &mut Vec<(String, Value)>) {
        // Templates for other uses, such as `tokenizer.chat_template.tool_use`, stay the base's.
        metadata.retain(|(key, _)| key != CHAT_TEMPLATE && (self.end.is_none() || key != EOS));
        metadata.push((
            CHAT_TEMPLATE.to_owned(),
            Value::String(self.template.clone()),
        ));
        metadata.extend(
            self.end
                .as_ref()
                .map(|(id, _)| (EOS.to_owned(), Value::U32(*id))),
        );
    }
}

/// Writes the templates of `base` for other uses where transformers reads them.
pub(super) fn write_named(folder: &Path, base: Option<&Templates>) -> Result<()> {
    let named = base
        .iter()
        .flat_map(|own| own.iter())
        .filter(|(name, _)| *name != DEFAULT);
    for (name, source) in named {
        // A name comes from a file, and a path would lead out of the folder.
        if name.is_empty() || name.contains(['/', '\\']) {
            let fault =
                format!("cannot hold the base's template `{name}`: its name is no file name");
            return Err(Error::Export {
                path: folder.into(),
                fault,
            });
        }
        let others = folder.join(ADDITIONAL);
        fs::create_dir_all(&others).map_err(Error::io(&others))?;
        let path = others.join(format!("{name}.jinja"));
        fs::write(&path, source).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// The keys of a GGUF file for `templates`: the default one, the others under their names, and a
/// list of those.
pub(super) fn template_keys(templates: Option<&Templates>) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    let mut names = Vec::new();
    for (name, source) in templates.iter().flat_map(|templates| templates.iter()) {
        let source = Value::String(source.to_owned());
        if name == DEFAULT {
            keys.push((CHAT_TEMPLATE.to_owned(), source));
        } else {
            keys.push((format!("{CHAT_TEMPLATE}.{name}"), source));
            names.push(Value::String(name.to_owned()));
        }
    }
    if !names.is_empty() {
        keys.push((format!("{CHAT_TEMPLATE}s"), Value::Array(names)));
    }
    keys
}

/// Rewrites the JSON object at `path`, where it is there and `edit` changes it.
fn change(path: &Path, edit: impl FnOnce(&mut Json)) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let before: Json =
        serde_json::from_str(qlora_data::strict::unmarked(&text)).map_err(|e| Error::Export {
            path: path.into(),
            fault: format!("is not JSON: {e}"),
        })?;
    let mut after = before.clone();
    edit(&mut after);
    if after == before {
        return Ok(());
    }
    fs::write(path, format!("{after:#}\n")).map_err(Error::io(path))
}
