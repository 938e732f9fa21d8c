use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qlora_trainer::partial;
use qlora_trainer::weights::Checkpoint;
use serde_json::json;

use crate::error::WorkerError;
use crate::models::{self, ModelError};
use crate::output::{print, print_json};

/// Writes the tokenizer and the chat template of a model that is here as the files of a Hugging
/// Face folder.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Text {
    /// Catalogue name, name of the hub, folder or .gguf file.
    name: String,
    /// Folder for the files.
    #[arg(long)]
    out: PathBuf,
}

const EXAMPLE: &str = "Example:
  qlora-worker model text smollm2-135m-instruct --out text";

impl Text {
    /// A model that is not on this machine is not fetched for it.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let files = Checkpoint::open(&models::local(&self.name)?)?.files;
        std::fs::create_dir_all(&self.out).map_err(ModelError::io(&self.out))?;
        let put = |name: &str, text: &str| {
            let path = self.out.join(name);
            partial::write(&path, text.as_bytes()).map_err(ModelError::io(path))
        };
        let path = self.out.join("tokenizer.json");
        let fault =
            |e: Box<dyn std::error::Error + Send + Sync>| std::io::Error::other(e.to_string());
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
            print_json(&json!({"v": 1, "folder": self.out}))?
        } else {
            print(self.out.display())?
        }
        Ok(ExitCode::SUCCESS)
    }
}
