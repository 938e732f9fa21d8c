//! What a checkpoint holds besides its weights, and where a Hugging Face folder says it.

use std::path::{Path, PathBuf};

use qlora_config::is_hub_name;
use qlora_data::{ChatTemplate, Lacking, SpecialTokens, Templates, strict};
use qlora_planner::ModelShape;
use tokenizers::Tokenizer;

use super::plain;
use crate::{Error, Result};

/// What a checkpoint holds besides its weights.
pub struct ModelFiles {
    pub path: PathBuf,
    pub shape: ModelShape,
    pub tokenizer: Option<Tokenizer>,
    pub template: Option<Templates>,
    pub special: SpecialTokens,
    /// Ids that end a generated answer.
    pub end_ids: Vec<u32>,
    /// Name on the hub, where the files say one.
    pub hub_name: Option<String>,
    /// What a person should hear before the model is used.
    pub notes: Vec<String>,
}

impl ModelFiles {
    fn missing(&self, fault: &str, help: &'static str) -> Error {
        Error::Model {
            path: self.path.clone(),
            fault: fault.into(),
            help,
        }
    }

    /// The tokenizer, which every run needs.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let missing = || {
            self.missing(
                "tokenizer.json is missing",
                "download the whole repository of the model",
            )
        };
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    /// The chat template that `wanted` names: `auto` is the model's own.
    pub fn chat_template(&self, wanted: &str) -> Result<ChatTemplate> {
        ChatTemplate::choose(wanted, self.template.as_ref(), &self.special).map_err(|lacking| {
            match lacking {
                Lacking::None => self.missing(
                    "it has no chat template",
                    "set data.template: chatml-tools, or use the Instruct model",
                ),
                Lacking::Named { .. } => self.missing(
                    &lacking.to_string(),
                    "set data.template to one of these, or to auto or chatml-tools",
                ),
                Lacking::Template(e) => Error::Template(e),
            }
        })
    }
}

pub(super) fn read_json(path: &Path) -> Result<serde_json::Value> {
    plain::check(path)?;
    if !path.exists() {
        let help = "name the folder of a model with all of its files";
        return Err(Error::Model {
            path: path.into(),
            fault: "it is missing".into(),
            help,
        });
    }
    let text = plain::text(path)?;
    strict::parse_settings(&text).map_err(|e| Error::Model {
        path: path.into(),
        fault: format!("it is not read as JSON: {e}"),
        help: "correct it, or download the file again",
    })
}

/// Ids that end an answer, of `config.json` and of `generation_config.json`, which has those of
/// chat models.
///
/// # Errors
/// One is no id of a model with `vocabulary` tokens: no answer would end with it.
pub(super) fn end_ids(
    folder: &Path,
    config: &serde_json::Value,
    vocabulary: usize,
) -> Result<Vec<u32>> {
    let generation = folder.join("generation_config.json");
    let mut all = ids_in(config, &folder.join("config.json"), vocabulary)?;
    plain::check(&generation)?;
    if generation.exists() {
        let settings = read_json(&generation)?;
        if !settings.is_object() {
            return Err(Error::Model {
                path: generation,
                fault: "it is no JSON object".into(),
                help: "download the file again, or remove it",
            });
        }
        let more = ids_in(&settings, &generation, vocabulary)?;
        all.extend(
            more.into_iter()
                .filter(|id| !all.contains(id))
                .collect::<Vec<_>>(),
        );
    }
    Ok(all)
}

fn ids_in(settings: &serde_json::Value, path: &Path, vocabulary: usize) -> Result<Vec<u32>> {
    let given = &settings["eos_token_id"];
    let all = match given {
        serde_json::Value::Null => &[],
        serde_json::Value::Array(ids) => ids.as_slice(),
        one => std::slice::from_ref(one),
    };
    let fault = |fault: String| Error::Model {
        path: path.into(),
        fault,
        help: "correct the key",
    };
    let id = |v: &serde_json::Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Vec<u32> = all.iter().map(id).collect::<Option<_>>().ok_or_else(|| {
        fault(format!(
            "`eos_token_id` is {given}, not a token id or a list of them"
        ))
    })?;
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(fault(format!(
            "`eos_token_id` has {id}, and the model has {vocabulary} tokens (`vocab_size`)"
        ))),
        None => Ok(ids),
    }
}

/// The name under which transformers loaded the model before it was saved, where that is one of the
/// hub.
pub(super) fn hub_name(config: &serde_json::Value) -> Option<String> {
    let name = config["_name_or_path"].as_str()?;
    is_hub_name(name).then(|| name.to_owned())
}
