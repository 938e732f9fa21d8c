use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_config::TEMPLATE_DATE;
use qlora_data::audit::Ruler;
use qlora_data::check::check;
use qlora_data::rows::Row;
use qlora_data::{Encoder, Example, IGNORE, Sample, encode_example};
use qlora_proto::numbers::whole;
use qlora_proto::words::count;
use serde_json::json;

use super::check::{open, unreadable};
use super::ruler::ruler;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{print_exact, print_json};

#[derive(Debug, Args)]
pub struct Preview {
    /// JSON lines, a JSON array or Parquet, also compressed; or a folder of such files.
    file: PathBuf,
    /// Which row, counted from 1 over all files; blank lines do not count.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = whole::<usize>("the number of a row", 1..))]
    row: usize,
    /// Model with its tokenizer and chat template: a folder, a .gguf file, or a name of
    /// `qlora-worker model list`.
    #[arg(long)]
    model: String,
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one, or the name of
    /// one of the model's.
    #[arg(long, default_value = "auto", value_parser = qlora_config::template)]
    template: String,
    /// The date of today for templates that write one, as data.template_date.
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    template_date: String,
}

impl Preview {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let ruler = ruler(&self.model, &self.template, &self.template_date, usize::MAX).await?;
        let fault = |message: String| CtlError::Data {
            message,
            help: "qlora-ctl data check lists every fault".into(),
        };
        let row = self.find()?;
        let example = row
            .value
            .and_then(Example::from_value)
            .map_err(|e| fault(format!("{}: {e}", row.place)))?;
        let sample = encode_example(&ruler.tokenizer, &ruler.template, &example);
        let sample = sample.map_err(|e| CtlError::Unencoded {
            code: e.code(),
            message: format!("{}: {e}", row.place),
        })?;
        let encoder = Encoder::new(&ruler.tokenizer, &ruler.template);
        let findings = findings(&ruler, &encoder, &example);
        // What the template makes of the row is shown all the same; a job refuses it.
        let exit = if findings.is_empty() {
            Exit::Done
        } else {
            Exit::BadInput
        };
        let warning = (findings.is_empty() && !encoder.ends(&sample))
            .then_some("no end of turn is trained on");
        if !context.global.json {
            // Also with --quiet: the exit code depends on it.
            let note = |kind: &str, text: &str| {
                console::note(&console::line(&format!("{}: {kind}: {text}", row.place)));
            };
            findings.iter().for_each(|text| note("finding", text));
            warning.iter().for_each(|text| note("warning", text));
        }
        let parts = parts(&ruler, &sample).map_err(fault)?;
        if context.global.json {
            let part = |(trained, text): &(bool, String)| json!({"trained": trained, "text": text});
            let parts: Vec<_> = parts.iter().map(part).collect();
            let (tokens, supervised) = (sample.ids.len(), sample.supervised());
            let shown = json!({"v": 1, "tokens": tokens, "supervised": supervised, "parts": parts, "finding": findings.first(), "findings": findings, "warning": warning});
            print_json(&shown)?;
            return Ok(exit.into());
        }
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = std::io::stdout().is_terminal() && !is_plain;
        let (on, off) = if color {
            ("\x1b[1;32m", "\x1b[0m")
        } else {
            ("[[", "]]")
        };
        for (trained, text) in &parts {
            let text = console::block(text);
            print_exact(&if *trained {
                format!("{on}{text}{off}")
            } else {
                text.into_owned()
            })?;
        }
        print_exact("\n")?;
        let tokens = count(sample.ids.len() as u64, "token");
        context.say(format!(
            "{}: {tokens}, {} trained on",
            row.place,
            sample.supervised()
        ));
        Ok(exit.into())
    }

    /// The row that is asked for; what cannot be read before it is told.
    fn find(&self) -> Result<Row, CtlError> {
        let mut seen = 0;
        for row in open(&self.file)? {
            let row = row.map_err(unreadable)?;
            seen += 1;
            if seen == self.row {
                return Ok(row);
            }
        }
        Err(CtlError::Data {
            message: format!("{}: there is no row {}", self.file.display(), self.row),
            help: format!("it has {}", count(seen as u64, "row")),
        })
    }
}

/// Why a job refuses the row; nothing where it does not.
fn findings(ruler: &Ruler, encoder: &Encoder, example: &Example) -> Vec<String> {
    let encoded = encoder.encode(&ruler.tokenizer, &ruler.template, example);
    let checked = match example {
        Example::Chat(conversation) => check(conversation),
        Example::Text(_) => Vec::new(),
    };
    let unencoded = encoded.err().map(|e| e.to_string());
    unencoded
        .into_iter()
        .chain(checked.iter().map(ToString::to_string))
        .collect()
}

/// Runs of tokens that are all trained on, or all not, as text.
fn parts(ruler: &Ruler, sample: &Sample) -> Result<Vec<(bool, String)>, String> {
    let tokens: Vec<(bool, u32)> = sample
        .labels
        .iter()
        .map(|&l| l != IGNORE)
        .zip(sample.ids.iter().copied())
        .collect();
    let run = |run: &[(bool, u32)]| {
        let ids: Vec<u32> = run.iter().map(|(_, id)| *id).collect();
        Ok((
            run[0].0,
            ruler
                .tokenizer
                .decode(&ids, false)
                .map_err(|e| e.to_string())?,
        ))
    };
    tokens.chunk_by(|a, b| a.0 == b.0).map(run).collect()
}
