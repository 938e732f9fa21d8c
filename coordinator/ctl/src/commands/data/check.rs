use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use qlora_client::console;
use qlora_config::TEMPLATE_DATE;
use qlora_data::audit::{Audit, Audited, Summary};
use qlora_data::named;
use qlora_data::rows::{self, ReadError, Rows};
use qlora_proto::numbers::whole;
use qlora_proto::words::count;
use serde_json::{Value, json};

use super::fixed::{Fixed, Written};
use super::ruler::{Known, ruler};
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{print, print_json};

/// Rows between two looks at the clock of the counter.
const TICK: usize = 256;

#[derive(Debug, Args)]
pub struct Check {
    /// JSON lines, a JSON array or Parquet, also compressed; or a folder of such files.
    file: PathBuf,
    /// Findings to print at the most.
    #[arg(long, default_value_t = 20, allow_negative_numbers = true, value_parser = whole::<usize>("a number of findings", 0..))]
    most: usize,
    /// Held-out rows, of which none may ask what this file asks.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Model that tokens are counted for, by its tokenizer and chat template: a folder, a .gguf
    /// file, or a name of `qlora-worker model list`.
    #[arg(long)]
    model: Option<String>,
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one, or the name of
    /// one of the model's.
    #[arg(long, default_value = "auto", value_parser = qlora_config::template)]
    template: String,
    /// The date of today for templates that write one, as data.template_date.
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    template_date: String,
    /// Tokens above which a row is counted as too long.
    #[arg(long, default_value_t = 2048, allow_negative_numbers = true, value_parser = whole::<usize>("a number of tokens", 0..))]
    max_seq_len: usize,
    /// Write the rows without findings to this file, in one form: messages, calls and tools as
    /// objects, no duplicates.
    #[arg(long, value_name = "FILE")]
    fix: Option<PathBuf>,
}

impl Check {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let known = match &self.model {
            Some(model) => Some(Known::of(model).await),
            None => None,
        };
        let mut audit = self.audit(context, known.as_ref()).await?;
        let rows = open(&self.file)?;
        let mut fixed = self.fixed(known.as_ref())?;
        let bar = if context.draws() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        let (mut printed, mut broken) = (0, Vec::new());
        for (i, row) in rows.enumerate() {
            let audited = match row {
                Ok(row) => audit.row(row),
                // The other files of a folder are looked at all the same.
                Err(fault @ ReadError::Format { .. }) => {
                    broken.push(fault);
                    continue;
                }
                Err(fault) => return Err(unreadable(fault)),
            };
            bar.suspend(|| self.print(context, &audited, &mut printed))?;
            if let Some(fixed) = &mut fixed {
                fixed.take(&audited)?;
            }
            if i.is_multiple_of(TICK) {
                bar.set_message(rows_of(i + 1));
            }
        }
        bar.finish_and_clear();
        let summary = audit.summary();
        if let Some(fault) = broken.pop() {
            if summary.rows > 0 {
                self.close(context, &summary, None)?;
            }
            broken
                .iter()
                .for_each(|fault| context.say(fault.to_string()));
            return Err(unreadable(fault));
        }
        if summary.rows == 0 {
            return Err(CtlError::Data {
                message: format!("{} holds no rows", self.file.display()),
                help: "a row is one line: {\"messages\": [...]}".into(),
            });
        }
        let fixed = fixed.map(Fixed::finish).transpose()?;
        self.close(context, &summary, fixed.as_ref())?;
        if summary.bad_rows == 0 {
            Ok(Exit::Done.into())
        } else {
            Ok(Exit::BadInput.into())
        }
    }

    /// An audit that knows the rows of `--against`, and measures by the model.
    async fn audit(&self, context: &Context, known: Option<&Known>) -> Result<Audit, CtlError> {
        let mut audit = Audit::default();
        if let Some(model) = &self.model {
            let positions = known.and_then(|known| known.positions);
            let limit = self.max_seq_len.min(positions.unwrap_or(usize::MAX));
            if limit < self.max_seq_len {
                context.say(format!(
                    "{model} knows {limit} positions, fewer than --max-seq-len {}: rows above {limit} tokens are too long for it",
                    self.max_seq_len
                ));
            }
            audit =
                audit.measured_by(ruler(model, &self.template, &self.template_date, limit).await?);
        }
        if let Some(other) = &self.against {
            for row in open(other)? {
                audit.note_other(row.map_err(unreadable)?);
            }
        }
        Ok(audit)
    }

    /// What `--fix` names, which is none of what is read.
    fn fixed(&self, known: Option<&Known>) -> Result<Option<Fixed>, CtlError> {
        let model = self.model.as_ref().map(Path::new);
        let inputs: Vec<&Path> = std::iter::once(self.file.as_path())
            .chain(self.against.as_deref())
            .chain(model)
            .chain(known.map(|known| known.path.as_path()))
            .collect();
        let path = self.fix.as_deref();
        path.map(|path| Fixed::create(path, &inputs)).transpose()
    }

    fn print(
        &self,
        context: &Context,
        audited: &Audited,
        printed: &mut usize,
    ) -> Result<(), CtlError> {
        for text in &audited.findings {
            *printed += 1;
            if context.global.json {
                print_json(
                    &json!({"v": 1, "file": audited.place.file, "line": audited.place.line, "finding": text}),
                )?;
            } else if *printed <= self.most {
                print(console::line(&format!("{}: {text}", audited.place)))?;
            }
        }
        Ok(())
    }

    fn close(
        &self,
        context: &Context,
        summary: &Summary,
        fixed: Option<&Written>,
    ) -> Result<(), CtlError> {
        if context.global.json {
            let mut object = json!(summary);
            object["v"] = 1.into();
            object["fixed"] = fixed.map_or(
                Value::Null,
                |w| json!({"file": w.path, "rows": w.rows, "left_out": w.left_out}),
            );
            return print_json(&object);
        }
        if summary.findings > self.most {
            print(format!(
                "and {} more; --most shows more",
                summary.findings - self.most
            ))?;
        }
        context.say(format!(
            "{}, {} with findings",
            rows_of(summary.rows),
            summary.bad_rows
        ));
        for (n, what) in [
            (summary.duplicates, "repeated"),
            (summary.leaked, "with a question that is held out too"),
            (
                summary.arguments_as_text,
                "with call arguments as text, read as the object that the text stands for",
            ),
        ] {
            if n > 0 {
                context.say(format!("  {} {what}", rows_of(n)));
            }
        }
        for (key, n) in &summary.unread {
            context.say(format!(
                "  {} `{key}`, which is not read",
                rows_that(*n, "has", "have")
            ));
        }
        for (field, n) in &summary.unwritten {
            context.say(format!(
                "  warning: the template does not write `{field}`: {}",
                rows_of(*n)
            ));
        }
        if let Some(t) = &summary.tokens {
            if t.endless > 0 {
                context.say(format!(
                    "  warning: {} no end of turn ({}): no control token ends what is trained on; a model trained on such rows alone does not stop. Look at the eos token and at where {{% endgeneration %}} stands",
                    rows_that(t.endless, "teaches", "teach"),
                    named(&t.endless_first, t.endless)
                ));
            }
            context.say(format!(
                "  {}, {} trained on; median {}, 19 of 20 up to {}, longest {}; {} above {}",
                count(t.total as u64, "token"),
                t.supervised,
                t.median,
                t.p95,
                t.longest,
                rows_of(t.above_limit),
                t.limit
            ));
            if t.above_limit > 0 {
                context.say(format!(
                    "  above {}: {}; data.too_long says whether they are skipped or cut",
                    t.limit,
                    named(&t.above_limit_first, t.above_limit)
                ));
            }
        }
        if let Some(w) = fixed {
            context.say(format!(
                "{} written to {}, {} left out",
                rows_of(w.rows),
                w.path.display(),
                w.left_out
            ));
        }
        Ok(())
    }
}

fn rows_of(n: usize) -> String {
    count(n as u64, "row")
}

/// `1 row has`, `2 rows have`.
fn rows_that(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", rows_of(n), if n == 1 { one } else { many })
}

pub(super) fn open(path: &Path) -> Result<Rows, CtlError> {
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    rows::open(path, &path.display().to_string()).map_err(unreadable)
}

pub(super) fn unreadable(fault: ReadError) -> CtlError {
    CtlError::unreadable(&fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_goes_with_its_number() {
        assert_eq!(
            [1, 2].map(|n| rows_that(n, "teaches", "teach")),
            ["1 row teaches", "2 rows teach"]
        );
    }
}
