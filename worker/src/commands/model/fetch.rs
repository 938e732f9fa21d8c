use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use serde_json::json;

use crate::error::WorkerError;
use crate::models::{self, Progress};
use crate::output::{print, print_json};

/// Gets a model of the catalogue or of the hub, checks it, and prints where it lies.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Fetch {
    /// Catalogue name, or owner/name of the hub.
    name: String,
}

const EXAMPLE: &str = "Example:
  qlora-worker model fetch smollm2-135m-instruct";

impl Fetch {
    /// The path goes to stdout.
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        let bar = Bar(bar);
        let path = models::resolve(&self.name, &bar)?;
        bar.0.finish_and_clear();
        if as_json {
            print_json(&json!({"v": 1, "model": self.name, "path": path}))?
        } else {
            print(path.display())?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A bar on stderr; invisible where stderr is no terminal.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn start(&self, what: &str, bytes: u64) {
        self.0.set_message(what.to_owned());
        self.0.set_length(bytes);
    }

    fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    fn note(&self, text: &str) {
        if self.0.is_hidden() {
            console::note(text)
        } else {
            self.0.println(text)
        }
    }
}
