//! What `merge` and `convert` share: both write what is as large as a model.

use std::path::Path;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::export::ElementType;
use qlora_trainer::partial::{self, Begun};
use qlora_trainer::stop::StopSignal;

use crate::error::WorkerError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    /// 8 bits and a scale for each 32.
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<GgufType> for ElementType {
    fn from(of: GgufType) -> Self {
        match of {
            GgufType::F32 => Self::F32,
            GgufType::F16 => Self::F16,
            GgufType::Bf16 => Self::Bf16,
            GgufType::Q8_0 => Self::Q8_0,
        }
    }
}

/// Removes what killed exports left beside `out`, and names what cannot be told from an export at
/// work: both are as large as a model.
pub fn clear(out: &Path) {
    let Begun { removed, kept } = partial::sweep(out);
    let line = |path: &Path| console::line(&path.to_string_lossy()).into_owned();
    for path in removed {
        console::note(&format!(
            "note: removed {}, which an export that is gone has left",
            line(&path)
        ));
    }
    for path in kept {
        let path = line(&path);
        console::note(&format!(
            "note: {path} is of an export that is at work or was ended; remove it if none is"
        ));
    }
}

/// A stop is a signal that a person gave.
pub fn ended(out: &Path) -> impl FnOnce(qlora_trainer::Error) -> WorkerError {
    move |fault| match fault {
        qlora_trainer::Error::Stopped => WorkerError::Interrupted { path: out.into() },
        fault => fault.into(),
    }
}

/// Tells what is odd of a model.
pub fn warn(notes: &[String]) {
    notes
        .iter()
        .for_each(|note| console::note(&format!("warning: {note}")));
}

/// How a model is read to be written.
pub fn held() -> ModelConfig {
    ModelConfig::held_as(Quantization::Nf4, Compute::F32)
}

/// A bar on stderr, which counts what is written.
pub fn progress(hidden: bool, verb: &str) -> ProgressBar {
    let bar = if hidden {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    if let Ok(style) =
        ProgressStyle::with_template(&format!("{verb} {{wide_bar}} {{pos}}/{{len}} {{eta}}"))
    {
        bar.set_style(style);
    }
    bar
}

/// Moves `bar`, and ends the work once `stop` asks for it.
pub fn watcher(
    bar: &ProgressBar,
    stop: StopSignal,
) -> impl FnMut(usize, usize) -> qlora_trainer::Result<()> + '_ {
    move |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        stop.check()
    }
}
