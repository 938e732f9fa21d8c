//! How well a model does on rows that it was not trained on: loss, and for tool calls, what it
//! writes by itself.

mod evaluation;
mod template;

use std::path::{Path, PathBuf};

use qlora_config::{DeviceKind, FlashAttention, ModelConfig};
use qlora_data::calls::{Grade, grade};
use qlora_data::rows::Place;
use qlora_data::{ChatTemplate, DatasetError, Encoder, Example, Sample};
pub use qlora_data::{Conversation, tools_of};
use tokenizers::Tokenizer;

use self::template::template_of;
use crate::generate::{Generation, answer, end_ids, end_of_turn};
use crate::lora::Adapters;
use crate::model::{Batch, Decoder};
use crate::runtime::{self, Purpose, Runtime};
use crate::scores::{CallScores, Scores};
use crate::stop::StopSignal;
use crate::weights::Checkpoint;
use crate::{Error, Result, adapter};

pub use evaluation::{ANSWER_TOKENS, Evaluation};

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
        let folder = subject.adapter.as_deref();
        folder.map_or(Ok(()), adapter::is_there)?;
        let checkpoint = Checkpoint::open_as(&subject.model, subject.config)?;
        let files = &checkpoint.files;
        let tokenizer = files.tokenizer()?.clone();
        let (template, note) = template_of(&subject.template, folder, files)?;
        let positions = files.shape.max_positions.min(LONGEST);
        let purpose = Purpose::Inference {
            model: subject.config,
            attention: subject.attention,
        };
        let runtime = Runtime::open(subject.device, &files.shape, purpose, positions)?;
        let decoder = runtime.load(&checkpoint, positions, |_| {})?;
        let adapters = runtime::adapters(folder, &decoder)?;
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
        if let Some(folder) = folder {
            notes.extend(adapter::notes_of_base(folder, files)?);
        }
        notes.extend(note);
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
    /// A training refuses the row too: it cannot be rendered, the template leaves out a part of it,
    /// or a text holds a control token. The model would be measured on other turns than the row has.
    fn sample(&self, encoder: &Encoder, place: &Place, example: &Example) -> Result<Sample> {
        match encoder.encode(&self.tokenizer, &self.template, example) {
            Ok(encoded) => Ok(encoded.sample),
            Err(source) => Err(DatasetError::Encode {
                place: place.clone(),
                source,
            }
            .into()),
        }
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
