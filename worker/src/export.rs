//! `qlora-worker merge` and `convert`: models and adapters for other programs.

use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::export::{self, Base, ElementType};
use qlora_trainer::partial::{self, Begun};
use qlora_trainer::stop::StopSignal;
use serde_json::json;

use crate::cli::{ConvertArgs, GgufType, MergeArgs, MergeBase};
use crate::error::WorkerError;
use crate::output::{number, placed, print, print_json};
use crate::{interrupt, models};

/// Merges and tells how large the update and the loss by quantisation are.
pub fn merge(args: &MergeArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
    let base = match args.into {
        MergeBase::Original => Base::Original,
        MergeBase::Dequantised => Base::Dequantised,
    };
    placed(&args.out)?;
    clear(&args.out);
    let model = models::resolve(&args.model, &models::Quiet)?;
    let bar = bar(as_json, "merging");
    let mut watch = watcher(&bar, interrupt::listen()?);
    let merged = export::merge(
        &model,
        &args.adapter,
        &args.out,
        base,
        &held(),
        element(args.element),
        &mut watch,
    );
    let merged = merged.map_err(ended(&args.out))?;
    bar.finish_and_clear();
    warn(&merged.notes);
    if as_json {
        print_json(&json!({
            "v": 1, "tensors": merged.tensors, "adapted": merged.adapted, "bytes": merged.bytes,
            "update": number(merged.update), "quantisation": number(merged.quantisation),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(format!(
        "{} tensors, {} of them adapted, {} MB",
        merged.tensors,
        merged.adapted,
        merged.bytes / 1_000_000
    ))?;
    print(format!(
        "the update is {:.2} % of the weights that it changes",
        100.0 * merged.update
    ))?;
    if merged.quantisation > 0.0 {
        print(format!(
            "original and dequantised weights differ by {:.2} %",
            100.0 * merged.quantisation
        ))?;
    }
    print(format!("{}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Converts a model, or an adapter where one is given.
pub fn convert(args: &ConvertArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
    let is_gguf = args
        .out
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if args.adapter.is_some() && !is_gguf {
        let text = format!(
            "{}: an adapter is written as a .gguf file; name one",
            args.out.display()
        );
        return Err(WorkerError::Input(text));
    }
    placed(&args.out)?;
    clear(&args.out);
    let model = models::resolve(&args.model, &models::Quiet)?;
    let bar = bar(as_json, "writing");
    let mut watch = watcher(&bar, interrupt::listen()?);
    let written = match &args.adapter {
        Some(adapter) => export::convert_adapter(&model, adapter, &args.out, &mut watch),
        None => export::convert(
            &model,
            &args.out,
            &held(),
            element(args.element),
            &mut watch,
        ),
    };
    let written = written.map_err(ended(&args.out))?;
    bar.finish_and_clear();
    warn(&written.notes);
    if as_json {
        print_json(&json!({"v": 1, "tensors": written.tensors, "bytes": written.bytes}))?;
    } else {
        print(format!(
            "{} tensors, {} MB",
            written.tensors,
            written.bytes / 1_000_000
        ))?;
        print(format!("{}", args.out.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what killed exports left beside `out`, and names what cannot be told from an export at
/// work: both are as large as a model.
fn clear(out: &Path) {
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
fn ended(out: &Path) -> impl FnOnce(qlora_trainer::Error) -> WorkerError {
    move |fault| match fault {
        qlora_trainer::Error::Stopped => WorkerError::Interrupted { path: out.into() },
        fault => fault.into(),
    }
}

fn warn(notes: &[String]) {
    notes
        .iter()
        .for_each(|note| console::note(&format!("warning: {note}")));
}

fn held() -> ModelConfig {
    ModelConfig::held_as(Quantization::Nf4, Compute::F32)
}

fn element(element: GgufType) -> ElementType {
    match element {
        GgufType::F32 => ElementType::F32,
        GgufType::F16 => ElementType::F16,
        GgufType::Bf16 => ElementType::Bf16,
        GgufType::Q8_0 => ElementType::Q8_0,
    }
}

fn bar(hidden: bool, verb: &str) -> ProgressBar {
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

fn watcher(
    bar: &ProgressBar,
    stop: StopSignal,
) -> impl FnMut(usize, usize) -> qlora_trainer::Result<()> + '_ {
    move |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        stop.check()
    }
}
