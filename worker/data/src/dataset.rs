//! A file of conversations as samples, with what was left out and why.

use std::path::Path;

use qlora_codes::Code;
use tokenizers::Tokenizer;

use crate::chat::Example;
use crate::encode::{EncodeError, Sample};
use crate::encoder::Encoder;
use crate::row_error::RowError;
use crate::rows::{self, Place, ReadError, Row};
use crate::statistics::Statistics;
use crate::template::ChatTemplate;
use crate::told::note;
use crate::unread::{note_unread, unread_keys};

/// What happens to a sample of more tokens than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    Skip,
    Truncate,
    Error,
}

/// Which samples are kept.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Tokens.
    pub max_seq_len: usize,
    pub too_long: TooLong,
    /// Ids from here on are not in the model's vocabulary.
    pub vocabulary: usize,
    /// Samples after which reading stops.
    pub limit: Option<usize>,
}

/// Why a file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{place}: {source}")]
    Row { place: Place, source: RowError },
    #[error("{place}: {source}")]
    Encode { place: Place, source: EncodeError },
    #[error(
        "{place}: {tokens} tokens, above data.max_seq_len {limit}; set data.too_long: skip or truncate, or raise the limit"
    )]
    TooLong {
        place: Place,
        tokens: usize,
        limit: usize,
    },
    #[error(
        "{place}: token id {id} is outside the model's vocabulary of {vocabulary}; the tokenizer belongs to another model"
    )]
    Vocabulary {
        place: Place,
        id: u32,
        vocabulary: usize,
    },
    #[error("{name} holds no rows; a row is one line: {{\"messages\": [...]}}")]
    Empty { name: String },
    #[error(
        "{name}: none of {rows} rows can be trained on within {limit} tokens; raise data.max_seq_len or set data.too_long: truncate"
    )]
    Nothing {
        name: String,
        rows: usize,
        limit: usize,
    },
}

impl DatasetError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::Encode { source, .. } => source.code(),
            Self::Read(_)
            | Self::Row { .. }
            | Self::TooLong { .. }
            | Self::Empty { .. }
            | Self::Nothing { .. } => Code::InvalidRow,
            // As without rows: the files of the model do not go together.
            Self::Vocabulary { .. } => Code::InvalidModel,
        }
    }
}

/// The examples of a file or folder, which messages call `name`, with where they stand.
///
/// # Errors
/// See [`rows::open`]; there is no row. A row that is no example is an error of its own.
pub fn examples(
    path: &Path,
    name: &str,
) -> Result<impl Iterator<Item = Result<(Place, Example), DatasetError>>, DatasetError> {
    let mut rows = rows::open(path, name)?.peekable();
    if rows.peek().is_none() {
        return Err(DatasetError::Empty {
            name: name.to_owned(),
        });
    }
    Ok(rows.map(|row| {
        let Row { place, value } = row?;
        match value.and_then(Example::from_value) {
            Ok(example) => Ok((place, example)),
            Err(source) => Err(DatasetError::Row { place, source }),
        }
    }))
}

/// Reads, renders and tokenizes the rows of a file or folder; `name` is how messages call it.
///
/// # Errors
/// The first row that is no conversation or that the template refuses, and a file in which nothing
/// is left.
pub fn load(
    path: &Path,
    name: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    policy: Policy,
) -> Result<(Vec<Sample>, Statistics), DatasetError> {
    let mut samples = Vec::new();
    let mut statistics = Statistics::default();
    let encoder = Encoder::new(tokenizer, template);
    for row in rows::open(path, name)? {
        let Row { place, value } = row?;
        for key in value.as_ref().map(unread_keys).unwrap_or_default() {
            note_unread(&mut statistics.unread, key);
        }
        let example = match value.and_then(Example::from_value) {
            Ok(example) => example,
            Err(source) => return Err(DatasetError::Row { place, source }),
        };
        statistics.rows += 1;
        let encoded = match encoder.encode(tokenizer, template, &example) {
            Ok(encoded) => encoded,
            Err(source) => return Err(DatasetError::Encode { place, source }),
        };
        for field in &encoded.unwritten_fields {
            note_unread(&mut statistics.unwritten, (*field).to_owned());
        }
        if let Some(sample) = fit(&place, encoded.sample, policy, &mut statistics)? {
            statistics.kept += 1;
            if !encoded.ends {
                statistics.endless += 1;
                note(&mut statistics.endless_first, &place);
            }
            statistics.tokens += sample.ids.len();
            statistics.supervised_tokens += sample.supervised();
            statistics.longest = statistics.longest.max(sample.ids.len());
            samples.push(sample);
        }
        if policy.limit.is_some_and(|limit| samples.len() >= limit) {
            break;
        }
    }
    if statistics.rows == 0 {
        return Err(DatasetError::Empty {
            name: name.to_owned(),
        });
    }
    if samples.is_empty() {
        return Err(DatasetError::Nothing {
            name: name.to_owned(),
            rows: statistics.rows,
            limit: policy.max_seq_len,
        });
    }
    Ok((samples, statistics))
}

fn fit(
    place: &Place,
    mut sample: Sample,
    policy: Policy,
    statistics: &mut Statistics,
) -> Result<Option<Sample>, DatasetError> {
    let tokens = sample.ids.len();
    if let Some(&id) = sample
        .ids
        .iter()
        .find(|&&id| id as usize >= policy.vocabulary)
    {
        return Err(DatasetError::Vocabulary {
            place: place.clone(),
            id,
            vocabulary: policy.vocabulary,
        });
    }
    if tokens > policy.max_seq_len {
        match policy.too_long {
            TooLong::Error => {
                return Err(DatasetError::TooLong {
                    place: place.clone(),
                    tokens,
                    limit: policy.max_seq_len,
                });
            }
            TooLong::Skip => {
                statistics.too_long += 1;
                return Ok(None);
            }
            TooLong::Truncate => {
                statistics.truncated += 1;
                note(&mut statistics.truncated_first, place);
                sample.ids.truncate(policy.max_seq_len);
                sample.labels.truncate(policy.max_seq_len);
            }
        }
    }
    if sample.supervised() == 0 {
        statistics.unsupervised += 1;
        return Ok(None);
    }
    Ok(Some(sample))
}
