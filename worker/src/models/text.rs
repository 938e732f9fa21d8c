//! `qlora-worker model text`: the tokenizer and the chat template of a model, of whatever format,
//! as the files of a Hugging Face folder.

use std::path::Path;
use std::process::ExitCode;

use qlora_trainer::partial;
use qlora_trainer::weights::Checkpoint;
use serde_json::json;

use super::{ModelError, local};
use crate::error::WorkerError;
use crate::output::{print, print_json};

/// Writes into `out`; a model that is not on this machine is not fetched for it.
pub fn write(name: &str, out: &Path, as_json: bool) -> Result<ExitCode, WorkerError> {
    let files = Checkpoint::open(&local(name)?)?.files;
    std::fs::create_dir_all(out).map_err(ModelError::io(out))?;
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        partial::write(&path, text.as_bytes()).map_err(ModelError::io(path))
    };
    let path = out.join("tokenizer.json");
    let fault = |e: Box<dyn std::error::Error + Send + Sync>| std::io::Error::other(e.to_string());
    let tokenizer = files.tokenizer()?;
    partial::write_with(&path, |path| tokenizer.save(path, false).map_err(fault))
        .map_err(ModelError::io(&path))?;
    let mut settings = json!({"bos_token": files.special.bos, "eos_token": files.special.eos});
    match files
        .template
        .as_ref()
        .map(|own| own.iter().collect::<Vec<_>>())
        .as_deref()
    {
        None => {}
        Some([(_, only)]) => put("chat_template.jinja", only)?,
        Some(named) => {
            let list: Vec<_> = named
                .iter()
                .map(|(name, text)| json!({"name": name, "template": text}))
                .collect();
            settings["chat_template"] = list.into();
        }
    }
    put("tokenizer_config.json", &settings.to_string())?;
    if as_json {
        print_json(&json!({"v": 1, "folder": out}))?
    } else {
        print(out.display())?
    }
    Ok(ExitCode::SUCCESS)
}
