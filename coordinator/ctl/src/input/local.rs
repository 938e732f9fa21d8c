//! Checks a configuration against the model's own files on this machine, before anything is sent:
//! whether the model can be read, how many positions it has, which chat templates it has, and
//! whether these render the rows. The worker checks a model that is not on this machine.

use std::path::Path;

use qlora_codes::Code;
use qlora_config::{
    ConfigErrors, Diagnostic, Layers, TooLong, TrainingConfig, is_hub_name, unlikely_template,
};
use qlora_data::audit::Ruler;
use qlora_data::{Encoder, Example, IGNORE, Lacking, ModelText, rows};
use qlora_planner::{ModelShape, WeightFormat, find, misfits, unmet_quantization};
use qlora_proto::words::count;
use serde_json::Value;
use tempfile::TempDir;

use super::base::{KEY as BASE, beside_a_folder};
use super::checked::{TEMPLATE, unfit};
use super::resolved::Resolved;
use crate::context::Context;
use crate::error::{CtlError, RowFault};
use crate::programs::worker_says;

/// Rows of each file that are rendered; the worker renders all of them.
const RENDERED: usize = 64;
/// Findings that a refusal names.
const SHOWN: usize = 20;

/// What a model on this machine is.
struct Here {
    text: ModelText,
    shape: Option<ModelShape>,
    format: Option<WeightFormat>,
}

/// Holds `resolved` against its model, where that is on this machine; gives what rows are rendered
/// with.
///
/// # Errors
/// The files are no model, or have no such template, or lack what the configuration asks for.
pub async fn look(context: &Context, resolved: &Resolved) -> Result<Option<Ruler>, CtlError> {
    let (config, layers) = (resolved.config.config(), &resolved.layers);
    let base = config.model.base.as_deref().unwrap_or_default();
    let Some(Here {
        text,
        shape,
        format,
    }) = here(context, base, layers).await?
    else {
        // The hub has folders, which is known before a worker fetches one.
        let is_folder = find(base).is_none() && is_hub_name(base);
        let unmet = is_folder.then(|| unmet_quantization(WeightFormat::Folder, &config.model));
        if let Some(misfit) = unmet.flatten() {
            return Err(CtlError::Config(unfit(layers, misfit).into()));
        }
        if let Some(note) = beside_a_folder(base, layers, &resolved.origin) {
            context.say(note);
        }
        let wanted = &config.data.template;
        return match unlikely_template(wanted, find(base).is_some()) {
            Some(help) => Err(no_template(layers, wanted, base, help)),
            None => Ok(None),
        };
    };
    let unmet = format.and_then(|format| unmet_quantization(format, &config.model));
    let misfits = shape.iter().flat_map(|shape| misfits(shape, config));
    let faults: Vec<_> = unmet
        .into_iter()
        .chain(misfits)
        .map(|misfit| unfit(layers, misfit))
        .collect();
    if !faults.is_empty() {
        return Err(CtlError::Config(ConfigErrors(faults)));
    }
    ruler(text, shape.as_ref(), config, layers).map(Some)
}

/// What the first rows of a file come to.
#[derive(Default)]
struct Seen {
    rows: usize,
    /// Rows with more tokens than a sequence may have.
    too_long: usize,
    /// Rows in which nothing is trained on.
    silent: usize,
    faults: Vec<Alike>,
    /// Rows that are refused for their length.
    refused: usize,
    /// The first of these.
    long: Vec<RowFault>,
}

/// What is wrong with a row.
enum Wrong {
    Long { tokens: usize },
    Fault(Code, String),
}

/// A fault with the first row that has it.
struct Alike {
    place: String,
    code: Code,
    text: String,
    rows: usize,
}

/// Renders the first rows of `path` as the worker will render all of them.
///
/// # Errors
/// The template cannot render one, a row holds tokens that the model does not have, or no row of
/// the file is left to train on.
pub fn render(ruler: &Ruler, path: &Path, too_long: TooLong) -> Result<(), CtlError> {
    let name = path.display().to_string();
    let encoder = Encoder::new(&ruler.tokenizer, &ruler.template);
    let mut seen = Seen::default();
    let mut opened = rows::open(path, &name).map_err(|e| CtlError::unreadable(&e))?;
    for row in opened.by_ref().take(RENDERED) {
        let row = row.map_err(|e| CtlError::unreadable(&e))?;
        // What is no row at all has been told before.
        let Ok(example) = row.value.and_then(Example::from_value) else {
            continue;
        };
        seen.rows += 1;
        let place = row.place.to_string();
        match seen.look(ruler, &encoder, &example, too_long) {
            Some(Wrong::Fault(code, text)) => seen.note(place, code, text),
            Some(Wrong::Long { tokens }) => seen.note_long(place, tokens),
            None => {}
        }
    }
    let is_whole = opened.next().is_none();
    seen.judged(name, is_whole, ruler.limit)
}

impl Seen {
    /// A template that cannot render calls says so of every row; once is enough.
    fn note(&mut self, place: String, code: Code, text: String) {
        match self.faults.iter_mut().find(|alike| alike.text == text) {
            Some(alike) => alike.rows += 1,
            None => self.faults.push(Alike {
                place,
                code,
                text,
                rows: 1,
            }),
        }
    }

    fn note_long(&mut self, place: String, tokens: usize) {
        self.refused += 1;
        if self.long.len() < SHOWN {
            let text = format!("it has {}", count(tokens as u64, "token"));
            self.long.push(RowFault { place, text });
        }
    }

    /// Counts a row, and gives what is wrong with it.
    fn look(
        &mut self,
        ruler: &Ruler,
        encoder: &Encoder,
        example: &Example,
        too_long: TooLong,
    ) -> Option<Wrong> {
        let sample = match encoder.encode(&ruler.tokenizer, &ruler.template, example) {
            Ok(encoded) => encoded.sample,
            Err(fault) => return Some(Wrong::Fault(fault.code(), fault.to_string())),
        };
        let length = sample.ids.len();
        match too_long {
            _ if length <= ruler.limit => self.silent += usize::from(sample.supervised() == 0),
            TooLong::Skip => self.too_long += 1,
            TooLong::Truncate => {
                let is_silent = sample.labels[..ruler.limit]
                    .iter()
                    .all(|label| *label == IGNORE);
                self.silent += usize::from(is_silent);
            }
            TooLong::Error => return Some(Wrong::Long { tokens: length }),
        }
        let size = ruler.vocabulary?;
        let id = sample.ids.into_iter().find(|&id| id as usize >= size)?;
        let text = format!(
            "token id {id} is outside the model's vocabulary of {size}; the tokenizer belongs to another model"
        );
        Some(Wrong::Fault(Code::InvalidModel, text))
    }

    /// `is_whole` says that the file has no further rows.
    fn judged(self, name: String, is_whole: bool, limit: usize) -> Result<(), CtlError> {
        let Self {
            rows,
            too_long,
            silent,
            faults,
            refused,
            long,
        } = self;
        if let Some(first) = faults.first() {
            let code = first.code;
            let faulty = faults.iter().map(|alike| alike.rows).sum();
            let shown = faults.into_iter().take(SHOWN).map(Alike::told).collect();
            return Err(CtlError::Unrendered {
                name,
                rows,
                faulty,
                code,
                shown,
            });
        }
        if refused > 0 {
            return Err(CtlError::TooLong {
                name,
                rows,
                faulty: refused,
                limit,
                shown: long,
            });
        }
        if is_whole && rows > 0 && too_long + silent == rows {
            return Err(CtlError::Data {
                message: format!(
                    "{name} has no row that can be trained on: of {} {too_long} have more than data.max_seq_len {limit} tokens, and in {silent} the template marks nothing of the assistant's within them",
                    count(rows as u64, "row")
                ),
                help: "raise data.max_seq_len, or look at a row with qlora-ctl data preview".into(),
            });
        }
        Ok(())
    }
}

impl Alike {
    fn told(self) -> RowFault {
        let others = match self.rows - 1 {
            0 => String::new(),
            n => format!(" (and so in {})", count(n as u64, "further row")),
        };
        RowFault {
            place: self.place,
            text: self.text + &others,
        }
    }
}

/// The text side and the shape of `base`; none where it is not on this machine.
async fn here(context: &Context, base: &str, layers: &Layers) -> Result<Option<Here>, CtlError> {
    let folder = tempfile::tempdir().map_err(CtlError::io(std::env::temp_dir()))?;
    let is_path = Path::new(base).exists();
    match files_of(base, &folder).await {
        Ok(found) => Ok(Some(found)),
        Err(CtlError::NoModel {
            message,
            help,
            code,
        }) if is_path => {
            let place = layers
                .place_of(BASE)
                .map(|place| format!(" ({place})"))
                .unwrap_or_default();
            Err(CtlError::NoModel {
                message: format!("`{BASE}`{place}: {message}"),
                help,
                code,
            })
        }
        // Another machine may hold it whole.
        Err(CtlError::NoModel { message, code, .. }) => {
            if code.as_deref() != Some(Code::NoModel.id()) {
                context.say(format!(
                    "the copy of `{base}` on this machine cannot be used: {message}"
                ));
            }
            Ok(None)
        }
        Err(CtlError::Process { .. }) if is_path => {
            context.say(format!(
                "`{base}` is not looked at here: qlora-worker does not lie beside qlora-ctl"
            ));
            Ok(None)
        }
        Err(CtlError::Process { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// `qlora-worker` knows the formats and where models lie; it opens the model as training does,
/// without its weights.
async fn files_of(base: &str, folder: &TempDir) -> Result<Here, CtlError> {
    let out = folder.path().to_string_lossy();
    worker_says(&["model", "text", base, "--out", &out, "--json"]).await?;
    let said = worker_says(&["model", "shape", base, "--json"]).await?;
    let mut said = serde_json::from_str::<Value>(&said).unwrap_or_default();
    let shape = serde_json::from_value(said["shape"].take()).ok();
    let format = serde_json::from_value(said["format"].take()).ok();
    let text = ModelText::open(folder.path()).map_err(|e| CtlError::NoModel {
        message: e.to_string(),
        help: "download the file again".into(),
        code: Some(Code::InvalidModel.into()),
    })?;
    Ok(Here {
        text,
        shape,
        format,
    })
}

/// What renders rows by the template that the configuration names.
fn ruler(
    text: ModelText,
    shape: Option<&ModelShape>,
    config: &TrainingConfig,
    layers: &Layers,
) -> Result<Ruler, CtlError> {
    let (wanted, base) = (
        &config.data.template,
        config.model.base.as_deref().unwrap_or_default(),
    );
    let template = text.chat_template(wanted).map_err(|lacking| match lacking {
        Lacking::None => {
            no_template(layers, wanted, base, "set `data.template: chatml-tools`, or give Jinja text".into())
        }
        Lacking::Named { names, .. } => no_template(
            layers,
            wanted,
            base,
            format!("it takes auto, chatml-tools, a template of the model's ({names}), or Jinja text"),
        ),
        Lacking::Template(fault) => at_template(layers, fault.to_string()),
    })?;
    let template = template
        .dated(&config.data.template_date)
        .map_err(|e| at_template(layers, e.to_string()))?;
    let lacks = || CtlError::NoModel {
        message: format!("{base}: tokenizer.json is missing"),
        help: "download the model with all of its files".into(),
        code: Some(Code::InvalidModel.into()),
    };
    let tokenizer = text.tokenizer.ok_or_else(lacks)?;
    let vocabulary = shape.map(|shape| shape.vocabulary).or(text.vocabulary);
    Ok(Ruler {
        tokenizer,
        template,
        limit: config.data.max_seq_len,
        vocabulary,
    })
}

fn no_template(layers: &Layers, wanted: &str, base: &str, help: String) -> CtlError {
    let message = match wanted {
        "auto" => format!("`{TEMPLATE}` is `auto`, and `{base}` has no chat template of its own"),
        _ => format!("`{TEMPLATE}` is `{wanted}`, which is no template of `{base}`"),
    };
    let diagnostic = Diagnostic {
        code: Code::InvalidValue,
        message,
        place: layers.place_of(TEMPLATE),
        help: Some(help),
    };
    CtlError::Config(diagnostic.into())
}

fn at_template(layers: &Layers, fault: String) -> CtlError {
    let diagnostic = Diagnostic {
        code: Code::ChatTemplate,
        message: format!("`{TEMPLATE}`: {fault}"),
        place: layers.place_of(TEMPLATE),
        help: Some("`chatml-tools` is a template that every model can be given".into()),
    };
    CtlError::Config(diagnostic.into())
}
