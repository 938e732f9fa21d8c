//! How well a model does on rows that it was not trained on: loss, and for tool calls, what it
//! writes by itself.

use std::path::{Path, PathBuf};

use qlora_config::{DeviceKind, FlashAttention, ModelConfig, ResolvedConfig};
use qlora_data::calls::{Grade, grade};
use qlora_data::rows::{Place, name_of};
use qlora_data::{ChatTemplate, DatasetError, Encoder, Example, IGNORE, Sample, encode_example};
pub use qlora_data::{Conversation, tools_of};
use tokenizers::Tokenizer;

use crate::generate::{Generation, answer, end_ids, end_of_turn};
use crate::lora::Adapters;
use crate::model::{Batch, Decoder};
use crate::report::{ControlSignal, Event, Phase, Reporter};
use crate::runtime::{self, Purpose, Runtime};
use crate::scores::{CallScores, Scores};
use crate::stop::StopSignal;
use crate::weights::{Checkpoint, ModelFiles};
use crate::{Error, Result, adapter};

/// A model with the text side that answers need.
pub struct Answerer {
    decoder: Decoder,
    adapters: Adapters,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    how: Generation,
    /// What a person should hear of the model.
    pub notes: Vec<String>,
}

/// Tokens that a row may have at the most, however many positions a model has.
const LONGEST: usize = 32_768;

/// What to load.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// A Hugging Face folder or a GGUF file.
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    pub config: &'a ModelConfig,
    /// `auto`, which is the adapter's where it has one, else the model's; `chatml-tools`; or Jinja
    /// text.
    pub template: String,
    pub max_new_tokens: usize,
    pub device: DeviceKind,
    /// As `training.flash_attention`.
    pub attention: FlashAttention,
}

/// A row that has been scored.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// Rows so far, this one included.
    pub rows: usize,
    pub place: &'a Place,
    /// The model's answer and its grade, where calls were wanted.
    pub answer: Option<(&'a str, Grade)>,
}

impl Answerer {
    /// Loads the model, with an adapter that changes nothing where none is given.
    pub fn open(subject: &Subject<'_>) -> Result<Self> {
        subject
            .adapter
            .as_deref()
            .map_or(Ok(()), adapter::is_there)?;
        let checkpoint = Checkpoint::open_as(&subject.model, subject.config)?;
        let files = &checkpoint.files;
        let tokenizer = files.tokenizer()?.clone();
        let (template, own) = template_of(subject, files)?;
        let positions = files.shape.max_positions.min(LONGEST);
        let purpose = Purpose::Inference {
            model: subject.config,
            attention: subject.attention,
        };
        let runtime = Runtime::open(subject.device, &files.shape, purpose, positions)?;
        let decoder = runtime.load(&checkpoint, positions, |_| {})?;
        let adapters = runtime::adapters(subject.adapter.as_deref(), &decoder)?;
        let mut end_ids = end_ids(files, &tokenizer);
        end_ids.extend(end_of_turn(&tokenizer, &template));
        let (temperature, seed) = (0.0, 0);
        let how = Generation {
            max_new_tokens: subject.max_new_tokens,
            temperature,
            seed,
            end_ids,
        };
        let mut notes = files.notes.clone();
        if let Some(folder) = &subject.adapter {
            notes.extend(adapter::notes_of_base(folder, files)?);
            let (wanted, base) = (&subject.template, files.template.as_ref());
            notes.extend(own.and_then(|own| own.note(folder, wanted, &template, base)));
        }
        Ok(Self {
            decoder,
            adapters,
            tokenizer,
            template,
            how,
            notes,
        })
    }

    /// Tokens that a row may have.
    pub fn positions(&self) -> usize {
        self.decoder.positions()
    }

    /// The same on another day, which templates that write the date see.
    fn dated(self, date: &str) -> Result<Self> {
        Ok(Self {
            template: self.template.dated(date)?,
            ..self
        })
    }

    /// The same, which ends with [`Error::Stopped`] within a row once `stop` asks for it.
    pub fn until(mut self, stop: StopSignal) -> Self {
        self.decoder.stop = stop;
        self
    }

    /// Whether the template tells the model of the tools of `conversation`, if it has any.
    pub fn writes_tools(&self, conversation: &Conversation) -> Result<bool> {
        Ok(self.template.writes_tools(conversation)?)
    }

    /// The likeliest answer to `conversation`.
    pub fn answer(&self, conversation: &Conversation) -> Result<String> {
        answer(
            &self.decoder,
            &self.adapters,
            &self.tokenizer,
            &self.template,
            conversation,
            &self.how,
        )
    }

    /// Loss over the rows of a file and grades of answers to those that make calls; `watch` hears
    /// of every row, and can end it.
    ///
    /// # Errors
    /// A row cannot be read or is not what the template writes; no row, or no token of one, is
    /// there to be scored.
    pub fn score(
        &self,
        file: &Path,
        name: &str,
        rows: usize,
        mut watch: impl FnMut(&Scored<'_>) -> Result<()>,
    ) -> Result<Scores> {
        let mut scores = Scores::default();
        let (mut sum, mut grades) = (0f64, Vec::new());
        let encoder = Encoder::new(&self.tokenizer, &self.template);
        for row in qlora_data::examples(file, name)?.take(rows) {
            let (place, example) = row?;
            let sample = self.sample(&encoder, &place, &example)?;
            if !self.fits(&sample, &place)? {
                scores.left_out += 1;
                continue;
            }
            let batch = Batch::pack([&sample]);
            let loss = self.decoder.loss(&batch, &self.adapters)?;
            if !loss.is_finite() {
                let origin = self.decoder.origin(&batch, &self.adapters)?;
                return Err(Error::Result {
                    what: format!("{place}: the loss of the row"),
                    origin,
                });
            }
            sum += loss;
            scores.tokens += batch.targets.len();
            let answered = self.graded(&example)?;
            scores.rows += 1;
            watch(&Scored {
                rows: scores.rows,
                place: &place,
                answer: answered.as_ref().map(|(a, g)| (a.as_str(), *g)),
            })?;
            grades.extend(answered.map(|(_, grade)| grade));
        }
        if scores.rows == 0 && scores.left_out > 0 {
            return Err(Error::NoRow {
                rows: scores.left_out,
                positions: self.positions(),
            });
        }
        something(&scores, name, rows)?;
        scores.loss = sum / scores.tokens.max(1) as f64;
        scores.perplexity = scores.loss.exp();
        scores.calls = (!grades.is_empty()).then(|| CallScores::of(&grades));
        Ok(scores)
    }

    /// The tokens of the row at `place`.
    ///
    /// # Errors
    /// The row cannot be rendered, the template leaves out everything that the row would be scored
    /// on, or a text holds a control token: the model would be measured on other turns than the row
    /// has.
    fn sample(&self, encoder: &Encoder, place: &Place, example: &Example) -> Result<Sample> {
        let fault = |source| DatasetError::Encode {
            place: place.clone(),
            source,
        };
        let (tokenizer, template) = (&self.tokenizer, &self.template);
        if let Example::Chat(conversation) = example {
            encoder.only_text(conversation).map_err(fault)?;
        }
        let sample = encode_example(tokenizer, template, example).map_err(fault)?;
        if sample.labels.iter().all(|&label| label == IGNORE) {
            // As before a training: a message may be left out, or none may be asked for.
            encoder
                .encode(tokenizer, template, example)
                .map_err(fault)?;
        }
        Ok(sample)
    }

    /// Whether the model has a position for every token of the row at `place`.
    fn fits(&self, sample: &Sample, place: &Place) -> Result<bool> {
        match self.decoder.accepts(&sample.ids, 0) {
            Ok(()) => Ok(true),
            Err(Error::Positions { .. }) => Ok(false),
            Err(Error::Vocabulary { id, vocabulary }) => Err(DatasetError::Vocabulary {
                place: place.clone(),
                id,
                vocabulary,
            }
            .into()),
            Err(other) => Err(other),
        }
    }

    /// The model's own answer where one that makes calls is wanted, and how good it is.
    fn graded(&self, example: &Example) -> Result<Option<(String, Grade)>> {
        let Example::Chat(conversation) = example else {
            return Ok(None);
        };
        if grade(conversation, "").is_none() {
            return Ok(None);
        }
        let answer = match self.answer(&conversation.question()) {
            // The question fills every position: there is none for an answer.
            Err(Error::Positions { .. }) => String::new(),
            answer => answer?,
        };
        let grade = grade(conversation, &answer);
        Ok(grade.map(|grade| (answer, grade)))
    }
}

/// That `scores`, of `asked` rows of the file `name` at the most, are of something: a loss over
/// nothing would be a perfect one.
fn something(scores: &Scores, name: &str, asked: usize) -> Result<()> {
    let (fault, help) = if asked == 0 {
        ("no row of it is asked for", "ask for one row or more")
    } else if scores.rows == 0 {
        (
            "it holds no rows",
            "a row is one line: {\"messages\": [...]}",
        )
    } else if scores.tokens == 0 {
        (
            "no row of it has a token to score",
            "give rows with answers, whose weight is not 0",
        )
    } else {
        return Ok(());
    };
    Err(Error::NothingToScore {
        name: name.to_owned(),
        fault: fault.to_owned(),
        help,
    })
}

/// The template that `subject` asks for, on the day on which its adapter was trained, and the one
/// that lies beside the adapter.
fn template_of(
    subject: &Subject<'_>,
    files: &ModelFiles,
) -> Result<(ChatTemplate, Option<adapter::template::Own>)> {
    let Some(folder) = subject.adapter.as_deref() else {
        return Ok((files.chat_template(&subject.template)?, None));
    };
    let own = adapter::template::own(folder)?;
    let template = match &own {
        Some(own) if subject.template == "auto" => own.compiled(folder, files.special.clone())?,
        _ => files.chat_template(&subject.template)?,
    };
    let template = match adapter::template::date(folder)? {
        Some(date) => template.dated(&date)?,
        None => template,
    };
    Ok((template, own))
}

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
