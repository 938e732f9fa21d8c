//! `qlora-worker merge`: an adapter and its base as one model.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::merge::{Base, merge};

use crate::cli::{MergeArgs, MergeBase};
use crate::error::WorkerError;

/// Merges and tells how large the update and the loss by quantisation are.
pub fn run(args: &MergeArgs) -> Result<ExitCode, WorkerError> {
    let base = match args.into {
        MergeBase::Original => Base::Original,
        MergeBase::Dequantised => Base::Dequantised,
    };
    let model = ModelConfig::held_as(Quantization::Nf4, Compute::F32);
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template("merging {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let merged = merge(&args.model, &args.adapter, &args.out, base, &model, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&merged).unwrap_or_default());
    } else {
        println!("{} tensors, {} of them adapted, {} MB", merged.tensors, merged.adapted, merged.bytes / 1_000_000);
        println!("the update is {:.2} % of the weights that it changes", 100.0 * merged.update);
        println!("original and dequantised weights differ by {:.2} %", 100.0 * merged.quantisation);
        println!("{}", args.out.display());
    }
    Ok(ExitCode::SUCCESS)
}
