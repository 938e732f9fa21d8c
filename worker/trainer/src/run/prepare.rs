//! What a run needs before its first step: the rows, as tokens, and the model.

use std::path::Path;

use qlora_config::{Idle, TooLong, idle_in};
use qlora_data::rows::name_of;
use qlora_data::{ChatTemplate, Conversation, Example, Policy, Sample, Statistics};
use qlora_planner::MemoryPolicy;
use tokenizers::Tokenizer;

use super::Run;
use crate::generate::end_ids;
use crate::model::Decoder;
use crate::report::{Event, Phase, Reporter};
use crate::runtime::{Purpose, Runtime};
use crate::stop::StopSignal;
use crate::weights::Checkpoint;
use crate::{Error, Result};

/// Data and model, ready to train.
pub(super) struct Prepared {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub end_ids: Vec<u32>,
    pub train: Vec<Sample>,
    pub eval: Vec<Sample>,
    pub question: Option<Conversation>,
    pub statistics: Statistics,
    pub policy: MemoryPolicy,
}

impl Prepared {
    /// Loads what `run` names; a pass through the model ends early where `stop` is given.
    pub fn load(run: &Run, stop: StopSignal, reporter: &mut dyn Reporter) -> Result<Self> {
        let config = run.config();
        reporter.report(Event::Phase {
            phase: Phase::Loading,
            done: 0,
            of: 0,
        })?;
        let checkpoint = Checkpoint::open_as(&run.model, &config.model)?;
        let files = &checkpoint.files;
        for text in files.notes.iter().cloned() {
            reporter.report(Event::Note { text })?;
        }
        let missing = |fault: &str, help| Error::Model {
            path: files.path.clone(),
            fault: fault.into(),
            help,
        };
        let tokenizer = files.tokenizer()?.clone();
        let template = files
            .chat_template(&config.data.template)?
            .dated(&config.data.template_date)?;
        let limit = files.shape.max_positions;
        if config.data.max_seq_len > limit {
            return Err(missing(
                &format!(
                    "it knows {limit} positions, fewer than data.max_seq_len {}",
                    config.data.max_seq_len
                ),
                "lower data.max_seq_len",
            ));
        }
        if let Some(module) = files.shape.lacking(&config.lora) {
            return Err(missing(
                &format!("it has no {module}, which lora.target_modules names"),
                "write all-linear, or the names of the model's own layers",
            ));
        }
        let (train, statistics) = run.load_rows(
            &run.train,
            &tokenizer,
            &template,
            files.shape.vocabulary,
            None,
        )?;
        tell_unread(&statistics, "training", reporter)?;
        let eval = match &run.eval {
            Some(path) => {
                let limit = config.training.eval_rows;
                let (rows, found) =
                    run.load_rows(path, &tokenizer, &template, files.shape.vocabulary, limit)?;
                tell_left_out(&found, config.data.max_seq_len, reporter)?;
                for text in found.warnings("held-out rows", config.data.max_seq_len) {
                    reporter.report(Event::Note { text })?;
                }
                tell_unread(&found, "held-out", reporter)?;
                rows
            }
            None => Vec::new(),
        };
        let question = run.eval.as_deref().map(first_row).transpose()?.flatten();
        let runtime = Runtime::open(
            config.resources.device,
            &files.shape,
            Purpose::Training(config),
            config.data.max_seq_len,
        )?;
        let layers = files.shape.layers as u64;
        let mut told = Ok(());
        let progress = |done| {
            if told.is_ok() {
                told = reporter.report(Event::Phase {
                    phase: Phase::Loading,
                    done: done as u64,
                    of: layers,
                });
            }
        };
        let longest = config.data.max_seq_len.max(limit.min(4096));
        let mut decoder = runtime.load(&checkpoint, longest, progress)?;
        decoder.stop = stop;
        told?;
        let end_ids = end_ids(files, &tokenizer);
        Ok(Self {
            decoder,
            tokenizer,
            template,
            end_ids,
            train,
            eval,
            question,
            statistics,
            policy: runtime.policy,
        })
    }
}

impl Run {
    /// Tells of keys that have no effect in a run of `steps` steps, and refuses those that the run
    /// was to depend on.
    pub(super) fn tell_idle_keys(&self, steps: u64, reporter: &mut dyn Reporter) -> Result<()> {
        for Idle {
            key,
            fault,
            help,
            is_refused,
        } in idle_in(self.config(), steps)
        {
            if is_refused {
                return Err(Error::Config { key, fault, help });
            }
            reporter.report(Event::Note {
                text: format!("warning: `{key}` {fault}; {help}"),
            })?;
        }
        Ok(())
    }

    fn load_rows(
        &self,
        path: &Path,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        vocabulary: usize,
        limit: Option<usize>,
    ) -> Result<(Vec<Sample>, Statistics)> {
        let data = &self.config().data;
        let too_long = match data.too_long {
            TooLong::Skip => qlora_data::TooLong::Skip,
            TooLong::Truncate => qlora_data::TooLong::Truncate,
            TooLong::Error => qlora_data::TooLong::Error,
        };
        let policy = Policy {
            max_seq_len: data.max_seq_len,
            too_long,
            vocabulary,
            limit,
        };
        let name = name_of(path);
        Ok(match &self.tokens {
            Some(folder) => {
                qlora_data::load_cached(folder, path, &name, tokenizer, template, policy)?
            }
            None => qlora_data::load(path, &name, tokenizer, template, policy)?,
        })
    }
}

/// Tells of held-out rows that are not evaluated.
fn tell_left_out(found: &Statistics, limit: usize, reporter: &mut dyn Reporter) -> Result<()> {
    if found.kept == found.rows {
        return Ok(());
    }
    let (left_out, rows, long, empty) = (
        found.rows - found.kept,
        found.rows,
        found.too_long,
        found.unsupervised,
    );
    let text = format!(
        "{left_out} of {rows} held-out rows are left out: {long} longer than data.max_seq_len {limit}, {empty} without a token to train on"
    );
    reporter.report(Event::Note { text })
}

/// Tells once of keys of rows that nothing reads: what a person wrote there is not trained on.
fn tell_unread(found: &Statistics, which: &str, reporter: &mut dyn Reporter) -> Result<()> {
    if found.unread.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = found
        .unread
        .iter()
        .map(|(key, rows)| format!("`{key}` in {rows}"))
        .collect();
    let text = format!(
        "keys of {which} rows that are not read: {} of {} rows",
        keys.join(", "),
        found.rows
    );
    reporter.report(Event::Note { text })
}

fn first_row(path: &Path) -> Result<Option<Conversation>> {
    let row = qlora_data::examples(path, &name_of(path))?
        .next()
        .transpose()?;
    Ok(row.and_then(|(_, example)| match example {
        Example::Chat(conversation) => Some(conversation),
        Example::Text(_) => None,
    }))
}
