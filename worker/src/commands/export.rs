//! What `merge` and `convert` share: both write files as large as a model.

use std::path::Path;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::export::{ElementType, is_gguf};
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

/// How the GGUF file `out` holds matrices.
///
/// # Errors
/// `asked` says it of a folder, whose tensors have types of their own.
pub fn element(asked: Option<GgufType>, out: &Path) -> Result<GgufType, WorkerError> {
    if asked.is_some() && !is_gguf(out) {
        return Err(WorkerError::Usage {
            fault: format!(
                "--type says how a .gguf file holds matrices, and {} will be a folder",
                out.display()
            ),
            help: "leave --type out, or give --out a name that ends in .gguf",
        });
    }
    Ok(asked.unwrap_or(GgufType::F16))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_type_is_asked_of_a_gguf_file_only() {
        for (asked, out, wanted) in [
            (None, "m.gguf", Some(GgufType::F16)),
            (None, "folder", Some(GgufType::F16)),
            (Some(GgufType::Q8_0), "m.GGUF", Some(GgufType::Q8_0)),
            (Some(GgufType::Q8_0), "folder", None),
            (Some(GgufType::F16), "m.gguf/folder", None),
        ] {
            assert_eq!(element(asked, Path::new(out)).ok(), wanted, "{out}");
        }
    }
}
