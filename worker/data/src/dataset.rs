//! A file of conversations as samples, with what was left out and why.

use std::io::BufRead;

use serde::Serialize;
use tokenizers::Tokenizer;

use crate::chat::{Conversation, RowError};
use crate::encode::{EncodeError, Sample, encode};
use crate::template::ChatTemplate;

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

/// What became of the rows of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    pub rows: usize,
    pub kept: usize,
    pub too_long: usize,
    pub truncated: usize,
    /// Rows in which, perhaps after truncation, no token carries loss.
    pub unsupervised: usize,
    pub tokens: usize,
    pub supervised_tokens: usize,
    pub longest: usize,
}

/// Why a file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("{name}: cannot be read: {source}")]
    Read { name: String, source: std::io::Error },
    #[error("{name}:{line}: {source}")]
    Row { name: String, line: usize, source: RowError },
    #[error("{name}:{line}: {source}")]
    Encode { name: String, line: usize, source: EncodeError },
    #[error(
        "{name}:{line}: {tokens} tokens, above data.max_seq_len {limit}; set data.too_long: skip or truncate, or raise the limit"
    )]
    TooLong { name: String, line: usize, tokens: usize, limit: usize },
    #[error(
        "{name}:{line}: token id {id} is outside the model's vocabulary of {vocabulary}; the tokenizer belongs to another model"
    )]
    Vocabulary { name: String, line: usize, id: u32, vocabulary: usize },
    #[error(
        "{name}: none of {rows} rows can be learnt from within {limit} tokens; raise data.max_seq_len or set data.too_long: truncate"
    )]
    Nothing { name: String, rows: usize, limit: usize },
}

/// Lines of a reader that are not blank, numbered from 1.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = std::io::Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(e) => return Some(Err(e)),
            }
            if !line.trim().is_empty() {
                return Some(Ok((self.number, line)));
            }
        }
    }
}

/// The conversations of `reader` with their line numbers.
pub fn parse_rows<R: BufRead>(
    name: &str,
    reader: R,
) -> impl Iterator<Item = Result<(usize, Conversation), DatasetError>> {
    let name = name.to_owned();
    Lines::new(reader).map(move |line| {
        let (line, text) = line.map_err(|source| DatasetError::Read { name: name.clone(), source })?;
        let row = Conversation::parse(&text);
        Ok((line, row.map_err(|source| DatasetError::Row { name: name.clone(), line, source })?))
    })
}

/// Reads, renders and tokenises the rows of `reader`; `name` is how messages call it.
///
/// # Errors
/// The first row that is no conversation or that the template refuses, and a file in which nothing is left.
pub fn load<R: BufRead>(
    name: &str,
    reader: R,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    policy: Policy,
) -> Result<(Vec<Sample>, Statistics), DatasetError> {
    let mut samples = Vec::new();
    let mut statistics = Statistics::default();
    for row in parse_rows(name, reader) {
        let (line, conversation) = row?;
        statistics.rows += 1;
        let sample = encode(tokenizer, template, &conversation).map_err(|source| DatasetError::Encode {
            name: name.to_owned(),
            line,
            source,
        })?;
        if let Some(sample) = fit(name, line, sample, policy, &mut statistics)? {
            statistics.kept += 1;
            statistics.tokens += sample.ids.len();
            statistics.supervised_tokens += sample.supervised();
            statistics.longest = statistics.longest.max(sample.ids.len());
            samples.push(sample);
        }
        if policy.limit.is_some_and(|limit| samples.len() >= limit) {
            break;
        }
    }
    if samples.is_empty() {
        return Err(DatasetError::Nothing { name: name.to_owned(), rows: statistics.rows, limit: policy.max_seq_len });
    }
    Ok((samples, statistics))
}

fn fit(
    name: &str,
    line: usize,
    mut sample: Sample,
    policy: Policy,
    statistics: &mut Statistics,
) -> Result<Option<Sample>, DatasetError> {
    let tokens = sample.ids.len();
    if let Some(&id) = sample.ids.iter().find(|&&id| id as usize >= policy.vocabulary) {
        return Err(DatasetError::Vocabulary { name: name.to_owned(), line, id, vocabulary: policy.vocabulary });
    }
    if tokens > policy.max_seq_len {
        match policy.too_long {
            TooLong::Error => {
                return Err(DatasetError::TooLong { name: name.to_owned(), line, tokens, limit: policy.max_seq_len });
            }
            TooLong::Skip => {
                statistics.too_long += 1;
                return Ok(None);
            }
            TooLong::Truncate => {
                statistics.truncated += 1;
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
