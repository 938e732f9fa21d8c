//! How rows become tokens: the tokenizer and the chat template of a model.

use std::path::{Path, PathBuf};

use qlora_codes::Code;
use qlora_data::audit::Ruler;
use qlora_data::{Lacking, ModelText, TemplateError};
use serde_json::Value;

use crate::error::CtlError;
use crate::programs::worker_says;

/// The tokenizer of `model`, and the template that `wanted` names. A folder is read here. A `.gguf`
/// file, and a name of the catalogue or of the hub, are read by `qlora-worker`, which knows the
/// format and where models lie.
pub async fn ruler(model: &str, wanted: &str, date: &str, limit: usize) -> Result<Ruler, CtlError> {
    if Path::new(model).is_dir() {
        return open(Path::new(model), model, wanted, date, limit);
    }
    let folder = tempfile::tempdir().map_err(CtlError::io(std::env::temp_dir()))?;
    let out = folder.path().to_string_lossy();
    worker_says(&["model", "text", model, "--out", &out, "--json"]).await?;
    open(folder.path(), model, wanted, date, limit)
}

/// What is known of a model beside its text side.
#[derive(Debug, Default)]
pub struct Known {
    /// Where it lies.
    pub path: PathBuf,
    /// Positions that it knows, where that can be told.
    pub positions: Option<usize>,
}

impl Known {
    /// What `qlora-worker` says of `model`: little where it does not lie beside this program, or
    /// where the folder holds a text side alone.
    pub async fn of(model: &str) -> Self {
        let said = worker_says(&["model", "shape", model, "--json"]).await;
        let said: Value = said
            .ok()
            .and_then(|said| serde_json::from_str(&said).ok())
            .unwrap_or_default();
        let positions = said["shape"]["max_positions"].as_u64();
        Self {
            path: said["path"].as_str().unwrap_or(model).into(),
            positions: positions.and_then(|positions| usize::try_from(positions).ok()),
        }
    }
}

fn open(
    folder: &Path,
    model: &str,
    wanted: &str,
    date: &str,
    limit: usize,
) -> Result<Ruler, CtlError> {
    let mut text =
        ModelText::open(folder).map_err(|e| invalid(e.to_string(), "download the file again"))?;
    let lacks = |what: &str, help: &str| invalid(format!("{model}: {what} is missing"), help);
    let fault = |e: TemplateError| {
        let help = "look at the template";
        no_model(e.to_string(), help, Code::ChatTemplate)
    };
    // A folder that is no model lacks a template too, which is not what is wrong with it.
    let tokenizer = text.tokenizer.take();
    let tokenizer = tokenizer.ok_or_else(|| {
        lacks(
            "tokenizer.json",
            "give the folder of a model with all of its files",
        )
    })?;
    let template = text
        .chat_template(wanted)
        .map_err(|lacking| match lacking {
            Lacking::None => lacks("a chat template", "give --template chatml-tools"),
            Lacking::Named { .. } => invalid(
                format!("{model}: {lacking}"),
                "give --template one of these, or auto or chatml-tools",
            ),
            Lacking::Template(e) => fault(e),
        })?;
    let template = template.dated(date).map_err(fault)?;
    let vocabulary = text.vocabulary;
    Ok(Ruler {
        tokenizer,
        template,
        limit,
        vocabulary,
    })
}

/// The model is there, and its files cannot be used as they are.
fn invalid(message: String, help: &str) -> CtlError {
    no_model(message, help, Code::InvalidModel)
}

fn no_model(message: String, help: &str, code: Code) -> CtlError {
    CtlError::NoModel {
        message,
        help: help.into(),
        code: Some(code.into()),
    }
}
