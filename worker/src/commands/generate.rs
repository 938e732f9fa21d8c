use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use qlora_trainer::score::Conversation;
use serde_json::json;

use super::subject::SubjectArgs;
use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::output::{print, print_json};

/// Answers one message.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Generate {
    #[command(flatten)]
    subject: SubjectArgs,
    /// What the user says.
    #[arg(long)]
    prompt: String,
    /// JSON file with a list of tool definitions.
    #[arg(long)]
    tools: Option<PathBuf>,
}

const EXAMPLE: &str = "Example:
  qlora-worker generate --model smollm2-135m-instruct --adapter adapter-1 --prompt Hello";

impl Generate {
    pub fn run(&self, agent: &AgentArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
        let tools = self.tools.as_deref().map(read_tools).transpose()?;
        let conversation = Conversation {
            messages: vec![json!({"role": "user", "content": self.prompt})],
            tools: tools.unwrap_or_default(),
        };
        let answer = self.subject.open(agent)?.answer(&conversation)?;
        if as_json {
            print_json(&json!({"v": 1, "answer": answer}))?
        } else {
            print(answer)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_tools(path: &Path) -> Result<Vec<serde_json::Value>, WorkerError> {
    let text = std::fs::read_to_string(path).map_err(WorkerError::io(path))?;
    // Editors put a byte order mark before the text.
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| WorkerError::Input(format!("{}: no list of tools: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_before_a_list_of_tools_is_skipped() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("tools.json");
        for mark in ["", "\u{feff}"] {
            std::fs::write(&path, format!("{mark}[{{\"type\": \"function\"}}]")).expect("a file");
            assert_eq!(
                read_tools(&path).expect("tools"),
                [json!({"type": "function"})]
            );
        }
        std::fs::write(&path, "[\u{feff}]").expect("a file");
        assert!(read_tools(&path).is_err());
    }
}
