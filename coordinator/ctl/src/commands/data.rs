use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use qlora_data::bfcl::{Limits, Side, convert};
use qlora_data::rows::{ReadError, Row};
use qlora_data::{Example, check::check};
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::print_json;

/// Look at training data. Needs no coordinator.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Check every row: roles, and every tool call against the JSON Schema of its tool.
    Check {
        file: PathBuf,
        /// Findings to print at the most.
        #[arg(long, default_value_t = 20)]
        most: usize,
    },
    /// Make training and held-out rows from the Berkeley Function-Calling Leaderboard.
    ConvertBfcl {
        /// Folder with BFCL_v4_*.json and possible_answer/.
        from: PathBuf,
        /// Folder for train.jsonl and heldout.jsonl.
        to: PathBuf,
        /// Characters of a row at the most.
        #[arg(long, default_value_t = 1000)]
        max_chars: usize,
    },
}

impl Data {
    pub fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::Check { file, most } => run_check(context, file, *most),
            Self::ConvertBfcl { from, to, max_chars } => convert_bfcl(context, from, to, *max_chars),
        }
    }
}

fn run_check(context: &Context, path: &Path, most: usize) -> Result<ExitCode, CtlError> {
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    let fault = |e: ReadError| CtlError::Data { message: e.to_string(), help: "look at the file".into() };
    let (mut rows, mut bad_rows, mut findings) = (0usize, 0usize, 0usize);
    for row in qlora_data::rows::open(path, &path.display().to_string()).map_err(fault)? {
        let Row { place, value } = row.map_err(fault)?;
        rows += 1;
        let texts: Vec<String> = match value.and_then(Example::from_value) {
            Ok(Example::Chat(conversation)) => check(&conversation).iter().map(ToString::to_string).collect(),
            Ok(Example::Text(_)) => Vec::new(),
            Err(e) => vec![e.to_string()],
        };
        bad_rows += usize::from(!texts.is_empty());
        for text in texts {
            findings += 1;
            if context.global.json {
                print_json(&json!({"v": 1, "line": place.line, "file": place.file, "finding": text}));
            } else if findings <= most {
                println!("{place}: {text}");
            }
        }
    }
    if findings > most && !context.global.json {
        println!("and {} more; --most shows more", findings - most);
    }
    if context.global.json {
        print_json(&json!({"v": 1, "rows": rows, "bad_rows": bad_rows, "findings": findings}));
    }
    context.say(format!("{rows} rows, {bad_rows} with findings"));
    if bad_rows == 0 { Ok(Exit::Done.into()) } else { Ok(Exit::BadInput.into()) }
}

const CATEGORIES: [&str; 6] =
    ["simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple"];
/// One function name in this many is held out.
const HELD_OUT: u64 = 7;

fn convert_bfcl(context: &Context, from: &Path, to: &Path, max_chars: usize) -> Result<ExitCode, CtlError> {
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
        let (questions, answers) = (read(from.join(&name))?, read(from.join("possible_answer").join(&name))?);
        for (side, row) in convert(&questions, &answers, Limits { max_chars, held_out: HELD_OUT }) {
            let (file, count) = if side == Side::Train { (&mut train, &mut n_train) } else { (&mut held, &mut n_held) };
            writeln!(file, "{row}").map_err(CtlError::io(to))?;
            *count += 1;
        }
    }
    context.say(format!("{n_train} training rows and {n_held} held-out rows in {}", to.display()));
    Ok(Exit::Done.into())
}
