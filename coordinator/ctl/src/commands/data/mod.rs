use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use qlora_data::bfcl::{Limits, Side, convert};
use qlora_proto::numbers::whole;
use qlora_proto::words::count;

use crate::context::Context;
use crate::error::{CtlError, Exit};

mod check;
mod fixed;
mod preview;
mod ruler;

use check::Check;
use preview::Preview;

/// Look at training data. Needs no coordinator.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Check every row: roles, every tool call against the JSON Schema of its tool, duplicates,
    /// leaks, lengths.
    Check(Check),
    /// Show a row as the model sees it, with the part that is trained on set off.
    Preview(Preview),
    /// Make training and held-out rows from the Berkeley Function-Calling Leaderboard.
    ConvertBfcl {
        /// Folder with BFCL_v4_*.json and possible_answer/.
        from: PathBuf,
        /// Folder for train.jsonl and heldout.jsonl.
        to: PathBuf,
        /// Characters of a row at the most.
        #[arg(long, default_value_t = 1000, allow_negative_numbers = true, value_parser = whole::<usize>("a number of characters", 0..))]
        max_chars: usize,
    },
}

impl Data {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::Check(check) => check.run(context).await,
            Self::Preview(preview) => preview.run(context).await,
            Self::ConvertBfcl {
                from,
                to,
                max_chars,
            } => convert_bfcl(context, from, to, *max_chars),
        }
    }
}

const CATEGORIES: [&str; 6] = [
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
];
/// One function name in this many is held out.
const HELD_OUT: u64 = 7;

fn convert_bfcl(
    context: &Context,
    from: &Path,
    to: &Path,
    max_chars: usize,
) -> Result<ExitCode, CtlError> {
    std::fs::create_dir_all(to).map_err(CtlError::io(to))?;
    let open = |name: &str| {
        let path = to.join(name);
        File::create(&path).map_err(CtlError::io(path))
    };
    let (mut train, mut held) = (open("train.jsonl")?, open("heldout.jsonl")?);
    let (mut n_train, mut n_held) = (0, 0);
    for category in CATEGORIES {
        let name = format!("BFCL_v4_{category}.json");
        let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(CtlError::io(path));
        let (questions, answers) = (
            read(from.join(&name))?,
            read(from.join("possible_answer").join(&name))?,
        );
        for (side, row) in convert(
            &questions,
            &answers,
            Limits {
                max_chars,
                held_out: HELD_OUT,
            },
        ) {
            let (file, count) = if side == Side::Train {
                (&mut train, &mut n_train)
            } else {
                (&mut held, &mut n_held)
            };
            writeln!(file, "{row}").map_err(CtlError::io(to))?;
            *count += 1;
        }
    }
    let (train, held) = (
        count(n_train, "training row"),
        count(n_held, "held-out row"),
    );
    context.say(format!("{train} and {held} in {}", to.display()));
    Ok(Exit::Done.into())
}
