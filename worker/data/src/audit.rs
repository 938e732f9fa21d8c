//! Audits a whole file of rows, row by row: what [`crate::check`] finds in each, duplicate rows,
//! questions that another file holds too, and lengths of rows in tokens.
//!
//! It keeps only a hash and the line of each row, so a million rows take a few tens of megabytes.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use serde::Serialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::chat::{Conversation, Example};
use crate::check::check;
use crate::encode::Sample;
use crate::encoder::Encoder;
use crate::rows::{Place, Row};
use crate::template::ChatTemplate;
use crate::told::note;
use crate::unread::{note_unread, unread_keys};

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    pub rows: usize,
    pub bad_rows: usize,
    pub findings: usize,
    pub duplicates: usize,
    /// Rows whose question stands in the other file too.
    pub leaked: usize,
    /// Rows with call arguments as JSON text instead of an object.
    pub arguments_as_text: usize,
    /// Keys that nothing reads, with the rows that have them.
    pub unread: BTreeMap<String, usize>,
    /// Fields of messages of which the template writes nothing, with the rows that have them; none
    /// where no template was given.
    pub unwritten: BTreeMap<String, usize>,
    /// Absent where no tokenizer was given.
    pub tokens: Option<Lengths>,
}

/// Lengths of rows in tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    pub total: usize,
    pub supervised: usize,
    pub median: usize,
    /// Nineteen rows in twenty are no longer.
    pub p95: usize,
    pub longest: usize,
    /// Rows above the limit.
    pub above_limit: usize,
    pub limit: usize,
    /// Where the first of these stand.
    pub above_limit_first: Vec<Place>,
    /// Rows in which a part that is trained on has no end of turn.
    pub endless: usize,
    /// Where the first of these stand.
    pub endless_first: Vec<Place>,
}

/// How rows become tokens.
pub struct Ruler {
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    /// Tokens of the longest row that is trained on whole.
    pub limit: usize,
    /// Ids from here on are not in the model's vocabulary, where that is known.
    pub vocabulary: Option<usize>,
}

/// Looks at rows in turn.
#[derive(Default)]
pub struct Audit {
    /// Rows by their hashes: the place of their file in `files`, and their line.
    seen: HashMap<u64, (u32, usize)>,
    files: Vec<String>,
    /// Questions of the file that must not share any.
    others: HashMap<u64, Place>,
    ruler: Option<(Ruler, Encoder)>,
    lengths: Vec<u32>,
    supervised: usize,
    endless: usize,
    endless_first: Vec<Place>,
    above_limit_first: Vec<Place>,
    summary: Summary,
}

/// One row as it was found.
pub struct Audited {
    pub place: Place,
    pub findings: Vec<String>,
    /// The row in its normal form, where nothing was found.
    pub fixed: Option<Value>,
}

impl Audit {
    /// Measures rows in tokens too.
    pub fn measured_by(mut self, ruler: Ruler) -> Self {
        let encoder = Encoder::new(&ruler.tokenizer, &ruler.template);
        self.ruler = Some((ruler, encoder));
        self
    }

    /// Notes a row of the file that must share no question with this one.
    pub fn note_other(&mut self, row: Row) {
        if let Ok(Example::Chat(conversation)) = row.value.and_then(Example::from_value) {
            self.others
                .entry(hash_of(&question(&conversation)))
                .or_insert(row.place);
        }
    }

    /// Looks at the next row.
    pub fn row(&mut self, row: Row) -> Audited {
        let Row { place, value } = row;
        self.summary.rows += 1;
        let mut findings = Vec::new();
        let fixed = match value {
            Ok(value) => self.value(value, &place, &mut findings),
            Err(e) => {
                findings.push(e.to_string());
                None
            }
        };
        self.summary.findings += findings.len();
        self.summary.bad_rows += usize::from(!findings.is_empty());
        Audited {
            place,
            findings,
            fixed,
        }
    }

    fn value(&mut self, value: Value, place: &Place, findings: &mut Vec<String>) -> Option<Value> {
        self.summary.arguments_as_text += usize::from(has_text_arguments(&value));
        for key in unread_keys(&value) {
            note_unread(&mut self.summary.unread, key);
        }
        let example = match Example::from_value(value) {
            Ok(example) => example,
            Err(e) => {
                findings.push(e.to_string());
                return None;
            }
        };
        if let Example::Chat(conversation) = &example {
            findings.extend(check(conversation).iter().map(ToString::to_string));
            if let Some(other) = self.others.get(&hash_of(&question(conversation))) {
                self.summary.leaked += 1;
                findings.push(format!("the same question stands at {other}"));
            }
        }
        self.measure(&example, place, findings);
        let fixed = normal(&example);
        let file = self.file(&place.file);
        match self.seen.entry(hash_of(&fixed)) {
            Entry::Vacant(slot) => drop(slot.insert((file, place.line))),
            Entry::Occupied(first) => {
                let &(file, line) = first.get();
                self.summary.duplicates += 1;
                findings.push(format!(
                    "the same row as {}:{line}",
                    self.files[file as usize]
                ));
            }
        }
        findings.is_empty().then_some(fixed)
    }

    /// The place of `name` in the list of files; rows come file by file.
    fn file(&mut self, name: &str) -> u32 {
        if self.files.last().is_none_or(|last| last != name) {
            self.files.push(name.to_owned());
        }
        self.files.len() as u32 - 1
    }

    fn measure(&mut self, example: &Example, place: &Place, findings: &mut Vec<String>) {
        let Some((ruler, encoder)) = &self.ruler else {
            return;
        };
        match encoder.encode(&ruler.tokenizer, &ruler.template, example) {
            Ok(encoded) => {
                self.lengths.push(encoded.sample.ids.len() as u32);
                self.supervised += encoded.sample.supervised();
                for field in &encoded.unwritten_fields {
                    note_unread(&mut self.summary.unwritten, (*field).to_owned());
                }
                if encoded.sample.ids.len() > ruler.limit {
                    note(&mut self.above_limit_first, place);
                }
                if !encoded.ends {
                    self.endless += 1;
                    note(&mut self.endless_first, place);
                }
                let size = ruler.vocabulary.unwrap_or(usize::MAX);
                findings.extend(outside(&encoded.sample, size).map(|id| {
                    let text = ruler.tokenizer.id_to_token(id).unwrap_or_default();
                    format!("token id {id}, `{text}`, is outside the model's vocabulary of {size}; the tokenizer belongs to another model")
                }));
            }
            Err(e) => findings.push(e.to_string()),
        }
    }

    /// What became of the rows so far.
    pub fn summary(&self) -> Summary {
        let tokens = self.ruler.as_ref().map(|(ruler, _)| {
            let mut sorted = self.lengths.clone();
            sorted.sort_unstable();
            let at = |share: f64| {
                sorted
                    .get((share * sorted.len() as f64) as usize)
                    .map_or(0, |&n| n as usize)
            };
            Lengths {
                total: sorted.iter().map(|&n| n as usize).sum(),
                supervised: self.supervised,
                median: at(0.5),
                p95: at(0.95),
                longest: sorted.last().map_or(0, |&n| n as usize),
                above_limit: sorted.iter().filter(|&&n| n as usize > ruler.limit).count(),
                limit: ruler.limit,
                above_limit_first: self.above_limit_first.clone(),
                endless: self.endless,
                endless_first: self.endless_first.clone(),
            }
        });
        Summary {
            tokens,
            ..self.summary.clone()
        }
    }
}

/// An id of `sample` that a model with `vocabulary` ids does not have.
fn outside(sample: &Sample, vocabulary: usize) -> Option<u32> {
    sample
        .ids
        .iter()
        .copied()
        .find(|&id| id as usize >= vocabulary)
}

/// The row as it is best written down.
fn normal(example: &Example) -> Value {
    match example {
        Example::Text(text) => json!({"text": text}),
        Example::Chat(conversation) => conversation.to_row(),
    }
}

/// What the model is asked: everything before the last answer.
fn question(conversation: &Conversation) -> Value {
    let question = conversation.question();
    json!([question.messages, question.tools])
}

/// Of equal values, whatever order their keys stand in.
fn hash_of(value: &Value) -> u64 {
    fn feed(value: &Value, hasher: &mut DefaultHasher) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_by_key(|(key, _)| *key);
                for (key, value) in keys {
                    key.hash(hasher);
                    feed(value, hasher);
                }
                1u8.hash(hasher);
            }
            Value::Array(items) => {
                items.iter().for_each(|item| feed(item, hasher));
                2u8.hash(hasher);
            }
            other => other.to_string().hash(hasher),
        }
    }
    let mut hasher = DefaultHasher::new();
    feed(value, &mut hasher);
    hasher.finish()
}

fn has_text_arguments(row: &Value) -> bool {
    let messages = row["messages"].as_array().into_iter().flatten();
    let calls = messages
        .filter_map(|message| message["tool_calls"].as_array())
        .flatten();
    calls
        .into_iter()
        .any(|call| call.get("function").unwrap_or(call)["arguments"].is_string())
}

#[cfg(test)]
mod tests;
