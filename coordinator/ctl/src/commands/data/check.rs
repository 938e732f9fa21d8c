use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use qlora_data::audit::{Audit, Audited, Ruler, Summary};
use qlora_data::rows::{self, ReadError, Rows};
use qlora_data::{ModelText, ModelTextError};
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::print_json;

/// Rows between two looks at the clock of the counter.
const TICK: usize = 256;

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
    /// Tokens above which a row is counted as too long.
    #[arg(long, default_value_t = 2048)]
    max_seq_len: usize,
    /// Write the rows to this file in one form: messages, arguments as objects, without duplicates and broken rows.
    #[arg(long, value_name = "FILE")]
    fix: Option<PathBuf>,
}

impl Check {
    pub fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut audit = Audit::default();
        if let Some(folder) = &self.model {
            audit = audit.measured_by(ruler(folder, &self.template, self.max_seq_len)?);
        }
        if let Some(other) = &self.against {
            for row in open(other)? {
                audit.note_other(row.map_err(unreadable)?);
            }
        }
        let mut fixed = self.fix.as_deref().map(Fixed::create).transpose()?;
        let bar = if context.draws() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.enable_steady_tick(Duration::from_millis(120));
        let mut printed = 0;
        for (i, row) in open(&self.file)?.enumerate() {
            let audited = audit.row(row.map_err(unreadable)?);
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
        if summary.rows == 0 {
            return Err(CtlError::Data {
                message: format!("{} holds no rows", self.file.display()),
                help: "a row is one line: {\"messages\": [...]}".into(),
            });
        }
        self.close(context, &summary);
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
        if let Some(t) = &summary.tokens {
            context.say(format!(
                "  {} tokens, {} learnt from; median {}, 19 of 20 up to {}, longest {}; {} rows above {}",
                t.total, t.supervised, t.median, t.p95, t.longest, t.above_limit, t.limit
            ));
        }
    }
}

/// Rows in one form, written under another name until all are there.
struct Fixed {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    rows: usize,
}

impl Fixed {
    fn create(path: &Path) -> Result<Self, CtlError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(CtlError::io(&partial))?;
        Ok(Self { path: path.into(), partial, out: BufWriter::new(file), rows: 0 })
    }

    fn write(&mut self, row: &serde_json::Value) -> Result<(), CtlError> {
        self.rows += 1;
        writeln!(self.out, "{row}").map_err(CtlError::io(&self.partial))
    }

    fn finish(mut self, context: &Context) -> Result<(), CtlError> {
        self.out.flush().map_err(CtlError::io(&self.partial))?;
        std::fs::rename(&self.partial, &self.path).map_err(CtlError::io(&self.path))?;
        context.say(format!("{} rows written to {}", self.rows, self.path.display()));
        Ok(())
    }
}

pub(super) fn open(path: &Path) -> Result<Rows, CtlError> {
    std::fs::metadata(path).map_err(CtlError::io(path))?;
    rows::open(path, &path.display().to_string()).map_err(unreadable)
}

pub(super) fn unreadable(fault: ReadError) -> CtlError {
    CtlError::Data { message: fault.to_string(), help: "rows are JSON lines, a JSON array or Parquet".into() }
}

/// The tokenizer of a model's folder, and the template that `wanted` names.
pub(super) fn ruler(folder: &Path, wanted: &str, limit: usize) -> Result<Ruler, CtlError> {
    std::fs::metadata(folder).map_err(CtlError::io(folder))?;
    let model = ModelText::open(folder).map_err(|e: ModelTextError| CtlError::Data {
        message: e.to_string(),
        help: "download the file again".into(),
    })?;
    let lacks = |what: &str, help: &str| CtlError::Data {
        message: format!("{}: {what} is missing", folder.display()),
        help: help.into(),
    };
    let template =
        model.chat_template(wanted).ok_or_else(|| lacks("a chat template", "give --template chatml-tools"))?;
    let template =
        template.map_err(|e| CtlError::Data { message: e.to_string(), help: "look at the template".into() })?;
    let tokenizer = model.tokenizer.ok_or_else(|| lacks("tokenizer.json", "give the folder of a model of the hub"))?;
    Ok(Ruler { tokenizer, template, limit })
}
