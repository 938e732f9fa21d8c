use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use qlora_trainer::score::{Conversation, tools_of};
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
        let answerer = self.subject.open(agent)?;
        if !answerer.writes_tools(&conversation)? {
            return Err(WorkerError::Input(
                "the chat template writes none of the tools of --tools, and the model could not know them; leave them out, or give --template chatml-tools"
                    .into(),
            ));
        }
        let answer = answerer.answer(&conversation)?;
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
    tools_of(&text)
        .map_err(|e| WorkerError::Input(format!("{}: no list of tools: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_held_against_the_rules_of_a_rows_tools() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("tools.json");
        let tool = "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}";
        // Editors put a byte order mark before the text.
        for mark in ["", "\u{feff}"] {
            std::fs::write(&path, format!("{mark}[{tool}]")).expect("a file");
            assert_eq!(
                read_tools(&path).expect("tools"),
                [json!({"type": "function", "function": {"name": "f"}})]
            );
        }
        for text in [
            "[\u{feff}]".to_owned(),
            "[{}]".to_owned(),
            "[1]".to_owned(),
            format!("[{tool}, {tool}]"),
        ] {
            std::fs::write(&path, &text).expect("a file");
            let fault = read_tools(&path).expect_err(&text);
            assert!(
                matches!(fault, WorkerError::Input(_)) && fault.to_string().contains("tools.json"),
                "{text}: {fault}"
            );
        }
    }
}
