use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use qlora_data::audit::{Audit, Audited, Ruler, Summary};
use qlora_data::rows::{self, ReadError, Rows};
use qlora_data::{ChatTemplate, Lacking, ModelText, ModelTextError};
use serde_json::json;

use super::fixed::Fixed;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::print_json;

/// Rows between two looks at the clock of the counter.
const TICK: usize = 256;
/// What `data.template_date` is where nobody sets it.
pub(super) const TEMPLATE_DATE: &str = "2024-07-26";

#[derive(Debug, Args)]
pub struct Check {
    /// JSON lines, a JSON array or Parquet, also compressed; or a folder of such files.
    file: PathBuf,
    /// Findings to print at the most.
    #[arg(long, default_value_t = 20)]
    most: usize,
    /// Held-out rows, of which none may ask what this file asks.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Folder of a model, to count tokens with its tokenizer and chat template.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Chat template: `auto` is the model's own, `chatml-tools` the built-in one.
    #[arg(long, default_value = "auto")]
    template: String,
    /// The date of today for templates that write one, as data.template_date.
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    template_date: String,
    /// Tokens above which a row is counted as too long.
    #[arg(long, default_value_t = 2048)]
    max_seq_len: usize,
    /// Write the rows without findings to this file, in one form: messages, calls and tools as objects, no duplicates.
    #[arg(long, value_name = "FILE")]
    fix: Option<PathBuf>,
}

impl Check {
    pub fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut audit = Audit::default();
        if let Some(folder) = &self.model {
            audit = audit.measured_by(ruler(folder, &self.template, &self.template_date, self.max_seq_len)?);
        }
        if let Some(other) = &self.against {
            for row in open(other)? {
                audit.note_other(row.map_err(unreadable)?);
            }
        }
        let rows = open(&self.file)?;
        let read: Vec<&Path> = [Some(&self.file), self.against.as_ref()].into_iter().flatten().map(|p| &**p).collect();
        let mut fixed = self.fix.as_deref().map(|path| Fixed::create(path, &read)).transpose()?;
        let bar = if context.draws() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
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
            bar.suspend(|| self.print(context, &audited, &mut printed));
            if let (Some(fixed), Some(row)) = (&mut fixed, &audited.fixed) {
                fixed.write(row)?;
            }
            if i.is_multiple_of(TICK) {
                bar.set_message(format!("{} rows", i + 1));
            }
        }
        bar.finish_and_clear();
        let summary = audit.summary();
        if summary.rows > 0 {
            self.close(context, &summary);
        }
        if let Some(fault) = broken.pop() {
            broken.iter().for_each(|fault| context.say(fault.to_string()));
            return Err(unreadable(fault));
        }
        if summary.rows == 0 {
            return Err(CtlError::Data {
                message: format!("{} holds no rows", self.file.display()),
                help: "a row is one line: {\"messages\": [...]}".into(),
            });
        }
        if let Some(fixed) = fixed {
            fixed.finish(context)?;
        }
        if summary.bad_rows == 0 { Ok(Exit::Done.into()) } else { Ok(Exit::BadInput.into()) }
    }

    fn print(&self, context: &Context, audited: &Audited, printed: &mut usize) {
        for text in &audited.findings {
            *printed += 1;
            if context.global.json {
                print_json(&json!({"v": 1, "file": audited.place.file, "line": audited.place.line, "finding": text}));
            } else if *printed <= self.most {
                println!("{}: {text}", audited.place);
            }
        }
    }

    fn close(&self, context: &Context, summary: &Summary) {
        if context.global.json {
            let mut object = json!(summary);
            object["v"] = 1.into();
            print_json(&object);
            return;
        }
        if summary.findings > self.most {
            println!("and {} more; --most shows more", summary.findings - self.most);
        }
        context.say(format!("{} rows, {} with findings", summary.rows, summary.bad_rows));
        for (n, what) in [
            (summary.duplicates, "stand there more than once"),
            (summary.leaked, "ask what the held-out rows ask"),
            (summary.arguments_as_text, "give call arguments as text; they are read as the object that they stand for"),
        ] {
            if n > 0 {
                context.say(format!("  {n} {what}"));
            }
        }
        for (key, n) in &summary.unread {
            context.say(format!("  {n} have `{key}`, which is not read"));
        }
        if let Some(t) = &summary.tokens {
            if t.endless > 0 {
                context.say(format!(
                    "  warning: {} teach no end of turn: no control token ends what is learnt from; a model trained on them alone does not stop. Look at the eos token and at where {{% endgeneration %}} stands",
                    t.endless
                ));
            }
            context.say(format!(
                "  {} tokens, {} learnt from; median {}, 19 of 20 up to {}, longest {}; {} rows above {}",
                t.total, t.supervised, t.median, t.p95, t.longest, t.above_limit, t.limit
            ));
        }
    }
}

pub(super) fn open(path: &Path) -> Result<Rows, CtlError> {
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    rows::open(path, &path.display().to_string()).map_err(unreadable)
}

pub(super) fn unreadable(fault: ReadError) -> CtlError {
    CtlError::Data { message: fault.to_string(), help: "rows are JSON lines, a JSON array or Parquet".into() }
}

/// The tokenizer of a model's folder, and the template that `wanted` names, on the day `date`.
pub(super) fn ruler(folder: &Path, wanted: &str, date: &str, limit: usize) -> Result<Ruler, CtlError> {
    std::fs::metadata(folder).map_err(CtlError::io(folder))?;
    let model = ModelText::open(folder).map_err(|e: ModelTextError| CtlError::Data {
        message: e.to_string(),
        help: "download the file again".into(),
    })?;
    let lacks = |what: &str, help: &str| CtlError::Data {
        message: format!("{}: {what} is missing", folder.display()),
        help: help.into(),
    };
    let fault = |message: String| CtlError::Data { message, help: "look at the template".into() };
    let template = model.chat_template(wanted).map_err(|lacking| match lacking {
        Lacking::None => lacks("a chat template", "give --template chatml-tools"),
        Lacking::Template(e) => fault(e.to_string()),
    })?;
    let template: ChatTemplate = template.dated(date).map_err(|e| fault(e.to_string()))?;
    let tokenizer = model.tokenizer.ok_or_else(|| lacks("tokenizer.json", "give the folder of a model of the hub"))?;
    Ok(Ruler { tokenizer, template, limit })
}
