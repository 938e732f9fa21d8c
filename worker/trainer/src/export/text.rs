//! The chat template and the end token of a merged model. Programs that serve it use what its files
//! say; with another prompt format than that of training, answers are poor and may not end.

use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use qlora_data::Templates;
use serde_json::{Value as Json, json};

use crate::adapter::{self, ADDITIONAL, TEMPLATE};
use crate::generate::end_of_turn;
use crate::weights::ModelFiles;
use crate::{Error, Result};

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The name under which the template without a name is listed.
const DEFAULT: &str = "default";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// The chat template that an adapter was trained with, and the token that ends its turns.
pub(super) struct Trained {
    template: String,
    /// The adapter's templates, and those of the base whose names it does not have.
    templates: Templates,
    /// Names of the latter.
    kept: Vec<String>,
    /// Id and text of the end of its turns.
    end: Option<(u32, String)>,
}

/// The chat format of the adapter in `folder`, trained on the model in `files`; none where the adapter
/// has no template.
pub(super) fn trained(folder: &Path, files: &ModelFiles) -> Result<Option<Trained>> {
    let Some(own) = adapter::template::own(folder)? else {
        return Ok(None);
    };
    let compiled = own.compiled(folder, files.special.clone())?;
    let base = || files.template.iter().flat_map(Templates::iter);
    let is_own = |wanted: &str| own.templates.iter().any(|(name, _)| name == wanted);
    let kept = base().filter(|(name, _)| !is_own(name));
    let kept = kept.map(|(name, _)| name.to_owned()).collect();
    let all = base().chain(own.templates.iter());
    let templates = all.fold(Templates::default(), |all, (name, source)| {
        all.with(Some(name), source.to_owned())
    });
    let template = own.text().to_owned();
    let tokenizer = files.tokenizer()?;
    let end =
        end_of_turn(tokenizer, &compiled).and_then(|id| Some((id, tokenizer.id_to_token(id)?)));
    Ok(Some(Trained {
        template,
        templates,
        kept,
        end,
    }))
}

impl Trained {
    /// How it differs from that of the model in `files`, for a person.
    pub(super) fn notes(&self, files: &ModelFiles) -> Vec<String> {
        let mut notes = Vec::new();
        let base = files
            .template
            .as_ref()
            .and_then(|own| own.iter().find(|(name, _)| *name == DEFAULT));
        if base.map(|(_, source)| source) != Some(&self.template) {
            notes.push(
                "the chat template is the adapter's, which differs from the base's".to_owned(),
            );
        }
        notes.extend(self.kept.iter().map(|name| {
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

    /// Writes template and end token into `folder`, which holds a copy of the base's files.
    pub(super) fn write_into(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join(TEMPLATE), &self.template)
            .map_err(Error::io(folder.join(TEMPLATE)))?;
        write_named(folder, Some(&self.templates))?;
        let older = folder.join("chat_template.json");
        if older.exists() {
            fs::remove_file(&older).map_err(Error::io(&older))?;
        }
        change(&folder.join("tokenizer_config.json"), |settings| {
            // The file beside it counts; two that differ would be two readings.
            if let Some(settings) = settings.as_object_mut() {
                settings.remove("chat_template");
            }
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
            // Some programs read one id only, so one stays one.
            let before = &config["eos_token_id"];
            config["eos_token_id"] = if before.is_array() {
                with_end(*id, before)
            } else {
                json!(id)
            };
        })?;
        change(&folder.join("generation_config.json"), |config| {
            config["eos_token_id"] = with_end(*id, &config["eos_token_id"]);
        })
    }

    /// Writes template and end token into the metadata of a GGUF file.
    pub(super) fn write_keys(&self, metadata: &mut Vec<(String, Value)>) {
        // Those of the base for other uses, such as `tokenizer.chat_template.tool_use`, are among
        // the templates.
        metadata.retain(|(key, _)| {
            !key.starts_with(CHAT_TEMPLATE) && (self.end.is_none() || key != EOS)
        });
        metadata.extend(template_keys(Some(&self.templates)));
        metadata.extend(
            self.end
                .as_ref()
                .map(|(id, _)| (EOS.to_owned(), Value::U32(*id))),
        );
    }
}

/// `id`, and the ids that ended an answer of the base: they still do.
fn with_end(id: u32, before: &Json) -> Json {
    let before = before
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![before.clone()]);
    let others = before
        .into_iter()
        .filter(|other| !other.is_null() && *other != json!(id));
    let all: Vec<Json> = std::iter::once(json!(id)).chain(others).collect();
    if all.len() == 1 {
        json!(id)
    } else {
        Json::Array(all)
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
            let fault = format!(
                "cannot hold the base's template `{name}`, whose name is no file name; rename it in the base's tokenizer_config.json, or export to .gguf"
            );
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
    let fault = |fault: String| Error::Export {
        path: path.into(),
        fault,
    };
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let before: Json = serde_json::from_str(qlora_data::strict::unmarked(&text))
        .map_err(|e| fault(format!("is not JSON ({e}); get the base's file again")))?;
    if !before.is_object() {
        return Err(fault("is no JSON object; get the base's file again".into()));
    }
    let mut after = before.clone();
    edit(&mut after);
    if after == before {
        return Ok(());
    }
    fs::write(path, format!("{after:#}\n")).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_an_answer_of_the_base_still_does() {
        for (before, after) in [
            (json!(null), json!(7)),
            (json!(2), json!([7, 2])),
            (json!(7), json!(7)),
            (json!([2, 7, 3]), json!([7, 2, 3])),
        ] {
            assert_eq!(with_end(7, &before), after, "{before}");
        }
    }

    #[test]
    fn settings_that_are_no_object_are_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("generation_config.json");
        for (text, word) in [("[]", "no JSON object"), ("{", "not JSON")] {
            fs::write(&path, text).expect("a file");
            let fault = change(&path, |config| config["a"] = json!(1)).expect_err(text);
            assert!(fault.to_string().contains(word), "{fault}");
        }
        change(&home.path().join("missing.json"), |_| {}).expect("nothing to change");
    }
}
