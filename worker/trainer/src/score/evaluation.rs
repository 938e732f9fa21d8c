//! A job that scores a model on the rows of a file.

use std::path::PathBuf;

use qlora_config::ResolvedConfig;
use qlora_data::calls::Grade;
use qlora_data::rows::name_of;

use super::{Answerer, Subject};
use crate::report::{ControlSignal, Event, Phase, Reporter};
use crate::{Error, Result};

/// Tokens of an answer at the most, where nobody says otherwise.
pub const ANSWER_TOKENS: usize = 256;
/// Wrong answers that are told of.
const TOLD: usize = 20;

/// A job that scores, with everything that it works on; every path exists.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub config: ResolvedConfig,
    /// A Hugging Face folder or a GGUF file.
    pub model: PathBuf,
    /// The base alone where there is none.
    pub adapter: Option<PathBuf>,
    pub rows: PathBuf,
}

impl Evaluation {
    /// Scores the rows, `training.eval_rows` of them at the most, and reports what was found.
    ///
    /// # Errors
    /// Those of [`Answerer::open`] and [`Answerer::score`]; [`Error::Stopped`] where the reporter
    /// says so.
    pub fn execute(&self, reporter: &mut dyn Reporter) -> Result<()> {
        let config = self.config.config();
        reporter.report(Event::Phase {
            phase: Phase::Loading,
            done: 0,
            of: 0,
        })?;
        let name = &name_of(&self.rows);
        let limit = config.training.eval_rows.unwrap_or(usize::MAX);
        let of = qlora_data::examples(&self.rows, name)?.take(limit).count() as u64;
        let mut answerer = Answerer::open(&Subject {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            config: &config.model,
            template: config.data.template.clone(),
            max_new_tokens: ANSWER_TOKENS,
            device: config.resources.device,
            attention: config.training.flash_attention,
        })?
        .until(reporter.stop_signal());
        if self.adapter.is_none() {
            answerer = answerer.dated(&config.data.template_date)?;
        }
        for text in answerer.notes.iter().cloned() {
            reporter.report(Event::Note { text })?;
        }
        if let Some(attention) = answerer.decoder.backend.attention() {
            reporter.report(Event::Note {
                text: format!("attention: {attention}"),
            })?;
        }
        reporter.report(Event::Phase {
            phase: Phase::Evaluating,
            done: 0,
            of,
        })?;
        let mut told = 0;
        let scores = answerer.score(&self.rows, name, limit, |row| {
            if let Some((answer, grade)) = row
                .answer
                .filter(|(_, grade)| *grade < Grade::Exact && told < TOLD)
            {
                told += 1;
                let text = format!("{}: {}: {answer}", row.place, grade.word());
                reporter.report(Event::Note { text })?;
            }
            reporter.report(Event::Phase {
                phase: Phase::Evaluating,
                done: row.rows as u64,
                of,
            })?;
            if reporter.control_signal() == ControlSignal::Stop {
                Err(Error::Stopped)
            } else {
                Ok(())
            }
        })?;
        if scores.left_out > 0 {
            let (rows, positions) = (scores.left_out, answerer.positions());
            let text = format!(
                "{rows} rows have more tokens than the model's {positions} positions and are left out"
            );
            reporter.report(Event::Note { text })?;
        }
        reporter.report(Event::Scores(scores))
    }
}
