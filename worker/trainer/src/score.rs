//! How well a model does on rows that it was not trained on: loss, and for tool calls, what it writes by itself.

use std::path::{Path, PathBuf};

use qlora_config::{DeviceKind, ModelConfig};
pub use qlora_data::Conversation;
use qlora_data::calls::{Grade, grade};
use qlora_data::{ChatTemplate, Example, encode_example};
use serde::Serialize;
use tokenizers::Tokenizer;

use crate::generate::{Generation, answer, end_ids};
use crate::lora::Adapters;
use crate::model::{Batch, Decoder};
use crate::weights::Checkpoint;
use crate::{Result, adapter, device};

/// A model with the text side that answers need.
pub struct Answerer {
    decoder: Decoder,
    adapters: Adapters,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    how: Generation,
}

/// What to load.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// A Hugging Face folder or a GGUF file.
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    pub config: &'a ModelConfig,
    /// `auto`, `chatml-tools`, or Jinja text.
    pub template: String,
    pub max_new_tokens: usize,
    pub device: DeviceKind,
}

/// Shares of the rows whose wanted answer makes calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CallScores {
    pub rows: usize,
    pub valid_json: f64,
    pub schema_valid: f64,
    pub names_match: f64,
    pub exact_match: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scores {
    pub rows: usize,
    /// Nats a token that is learnt from.
    pub loss: f64,
    pub perplexity: f64,
    pub tokens: usize,
    /// Absent where no row makes calls.
    pub calls: Option<CallScores>,
}

impl Answerer {
    /// Loads the model, with an adapter that changes nothing where none is given.
    pub fn open(subject: &Subject<'_>) -> Result<Self> {
        let device = &device::open(subject.device)?;
        let checkpoint = Checkpoint::open(&subject.model)?;
        let files = &checkpoint.files;
        let tokenizer = files.tokenizer()?.clone();
        let template = files.chat_template(&subject.template)?;
        let decoder =
            Decoder::load(&checkpoint, subject.config, files.shape.max_positions.min(32_768), device, |_| {})?;
        let adapters = match &subject.adapter {
            Some(folder) => adapter::load(folder, &decoder.shape, &decoder.fingerprint, 0, device)?,
            None => Adapters::without_effect(&decoder.shape, device)?,
        };
        let (temperature, seed, end_ids) = (0.0, 0, end_ids(files, &tokenizer));
        let how = Generation { max_new_tokens: subject.max_new_tokens, temperature, seed, end_ids };
        Ok(Self { decoder, adapters, tokenizer, template, how })
    }

    /// The likeliest answer to `conversation`.
    pub fn answer(&self, conversation: &Conversation) -> Result<String> {
        answer(&self.decoder, &self.adapters, &self.tokenizer, &self.template, conversation, &self.how)
    }

    /// Loss over the rows of a file and grades of answers to those that make calls; `progress` hears of every row.
    pub fn score(&self, file: &Path, name: &str, rows: usize, mut progress: impl FnMut(usize)) -> Result<Scores> {
        let mut scores = Scores::default();
        let (mut sum, mut grades) = (0f64, Vec::new());
        for row in qlora_data::examples(file, name)?.take(rows) {
            let (place, example) = row?;
            let sample = encode_example(&self.tokenizer, &self.template, &example)
                .map_err(|source| qlora_data::DatasetError::Encode { place, source })?;
            let batch = Batch::pack([&sample]);
            sum += self.decoder.loss(&batch, &self.adapters)?;
            scores.tokens += batch.targets.len();
            if let Example::Chat(conversation) = &example
                && grade(conversation, "").is_some()
            {
                grades.extend(grade(conversation, &self.answer(&conversation.question())?));
            }
            scores.rows += 1;
            progress(scores.rows);
        }
        scores.loss = sum / scores.tokens.max(1) as f64;
        scores.perplexity = scores.loss.exp();
        scores.calls = (!grades.is_empty()).then(|| CallScores::of(&grades));
        Ok(scores)
    }
}

impl CallScores {
    fn of(grades: &[Grade]) -> Self {
        let share = |least: Grade| grades.iter().filter(|&&g| g >= least).count() as f64 / grades.len() as f64;
        Self {
            rows: grades.len(),
            valid_json: share(Grade::Json),
            schema_valid: share(Grade::Schema),
            names_match: share(Grade::Names),
            exact_match: share(Grade::Exact),
        }
    }
}
