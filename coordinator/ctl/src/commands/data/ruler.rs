//! How rows become tokens: the tokenizer and the chat template of a model.

use std::path::Path;
use std::process::Stdio;

use qlora_data::audit::Ruler;
use qlora_data::{Lacking, ModelText, TemplateError};
use tokio::process::Command;

use crate::error::CtlError;
use crate::programs::sibling;

/// The tokenizer of `model`, and the template that `wanted` names. A folder is read here. A `.gguf` file, and a name of
/// the catalogue or of the hub, are read by `qlora-worker`, which knows the format and where models lie.
pub async fn ruler(model: &str, wanted: &str, date: &str, limit: usize) -> Result<Ruler, CtlError> {
    if Path::new(model).is_dir() {
        return open(Path::new(model), model, wanted, date, limit);
    }
    let folder = tempfile::tempdir().map_err(CtlError::io(std::env::temp_dir()))?;
    let mut command = Command::new(sibling("qlora-worker")?);
    command.args(["model", "text", model, "--out"]).arg(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(CtlError::io("qlora-worker"))?;
    if !output.status.success() {
        return Err(said(&String::from_utf8_lossy(&output.stderr)));
    }
    open(folder.path(), model, wanted, date, limit)
}

/// The fault that the worker's command printed, in the form of this program's.
fn said(stderr: &str) -> CtlError {
    let (message, help) = stderr.trim().split_once("\n  help: ").unwrap_or((stderr.trim(), ""));
    let message = message.split_once("]: ").map_or(message, |(_, message)| message);
    CtlError::NoModel { message: message.into(), help: help.into() }
}

fn open(folder: &Path, model: &str, wanted: &str, date: &str, limit: usize) -> Result<Ruler, CtlError> {
    let text = ModelText::open(folder)
        .map_err(|e| CtlError::NoModel { message: e.to_string(), help: "download the file again".into() })?;
    let lacks = |what: &str, help: &str| CtlError::NoModel {
        message: format!("{model}: {what} is missing"),
        help: help.into(),
    };
    let fault = |e: TemplateError| CtlError::NoModel { message: e.to_string(), help: "look at the template".into() };
    let template = text.chat_template(wanted).map_err(|lacking| match lacking {
        Lacking::None => lacks("a chat template", "give --template chatml-tools"),
        Lacking::Named { .. } => CtlError::NoModel {
            message: format!("{model}: {lacking}"),
            help: "give --template one of these, or auto or chatml-tools".into(),
        },
        Lacking::Template(e) => fault(e),
    })?;
    let template = template.dated(date).map_err(fault)?;
    let vocabulary = text.vocabulary;
    let tokenizer = text.tokenizer.ok_or_else(|| lacks("tokenizer.json", "give the folder of a model of the hub"))?;
    Ok(Ruler { tokenizer, template, limit, vocabulary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_says_becomes_a_message_and_its_help() {
        let fault = said("error[Q0302]: `x` is not on this machine\n  help: qlora-worker model fetch x\n");
        assert_eq!(fault.to_string(), "`x` is not on this machine");
        assert_eq!((fault.code(), fault.help().as_str()), ("Q0302", "qlora-worker model fetch x"));
        assert_eq!(said("panic").to_string(), "panic");
    }
}
