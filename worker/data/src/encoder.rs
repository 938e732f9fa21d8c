//! Turns examples into tokens, and checks that the tokens are what the examples stand for: no text
//! that the model would read as control tokens, no answer, message or tool that the template leaves
//! out, and an end to every answer.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::chat::{Conversation, Example};
use crate::encode::{EncodeError, IGNORE, Sample, encode_example, encode_rendered};
use crate::template::ChatTemplate;

/// Tokens behind an end of turn that may be trained on with it, such as a line feed.
const BEHIND: usize = 3;

/// What a tokenizer reads as control tokens.
#[derive(Debug)]
pub struct Encoder {
    /// Texts of the control tokens, by their first characters.
    control: HashMap<char, Vec<String>>,
    ids: HashSet<u32>,
}

/// An example as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub sample: Sample,
    /// Every part that is trained on ends with a control token, by which the model learns to end.
    pub ends: bool,
    /// Fields of messages of which the template writes nothing; see
    /// [`crate::Rendered::unwritten_fields`].
    pub unwritten_fields: Vec<&'static str>,
}

impl Encoder {
    pub fn new(tokenizer: &Tokenizer, template: &ChatTemplate) -> Self {
        let (mut control, mut ids) = (HashMap::<char, Vec<String>>::new(), HashSet::new());
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if let Some(first) = token.content.chars().next().filter(|_| token.special) {
                ids.insert(id);
                control.entry(first).or_default().push(token.content);
            }
        }
        ids.extend(tokenizer.token_to_id(&template.special().eos));
        Self { control, ids }
    }

    /// Tokens of `example`, which say what it says, by the tokenizer and template that this was
    /// made for.
    ///
    /// # Errors
    /// Those of [`encode_example`]; a message holds a control token, or the template leaves out a
    /// part of an answer that is trained on, another message or the tools.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        example: &Example,
    ) -> Result<Encoded, EncodeError> {
        let (sample, unwritten_fields) = match example {
            Example::Chat(conversation) => {
                self.only_text(conversation)?;
                let rendered = template.render(conversation)?;
                if let Some(lost) = rendered.lost.first() {
                    return Err(lost.clone().into());
                }
                if let Some(unwritten) = rendered.unwritten.first() {
                    return Err(unwritten.clone().into());
                }
                let sample = encode_rendered(tokenizer, &rendered)?;
                (sample, rendered.unwritten_fields)
            }
            // Plain text may have its control tokens written out.
            Example::Text(_) => (encode_example(tokenizer, template, example)?, Vec::new()),
        };
        Ok(Encoded {
            ends: self.ends(&sample),
            sample,
            unwritten_fields,
        })
    }

    /// Whether every part of `sample` that is trained on ends with a control token.
    pub fn ends(&self, sample: &Sample) -> bool {
        let labels: Vec<(bool, u32)> = sample
            .labels
            .iter()
            .map(|&l| l != IGNORE)
            .zip(sample.ids.iter().copied())
            .collect();
        let trained = labels.chunk_by(|a, b| a.0 == b.0).filter(|run| run[0].0);
        trained
            .map(|run| &run[run.len().saturating_sub(BEHIND)..])
            .all(|end| end.iter().any(|(_, id)| self.ids.contains(id)))
    }

    /// Refuses texts that hold control tokens.
    ///
    /// # Errors
    /// [`EncodeError::Control`] names the message and the token.
    pub fn only_text(&self, conversation: &Conversation) -> Result<(), EncodeError> {
        let messages = conversation
            .messages
            .iter()
            .enumerate()
            .map(|(i, message)| (format!("message {i}"), message));
        let tools = conversation
            .tools
            .iter()
            .enumerate()
            .map(|(i, tool)| (format!("tool {i}"), tool));
        for (place, value) in messages.chain(tools) {
            if let Some(token) = self.control_token(value) {
                return Err(EncodeError::Control {
                    place,
                    token: token.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// A control token in the texts of `value`.
    fn control_token(&self, value: &Value) -> Option<&str> {
        match value {
            Value::String(text) => self.control_token_in(text),
            Value::Array(items) => items.iter().find_map(|item| self.control_token(item)),
            Value::Object(map) => map.iter().find_map(|(key, value)| {
                self.control_token_in(key)
                    .or_else(|| self.control_token(value))
            }),
            _ => None,
        }
    }

    fn control_token_in(&self, text: &str) -> Option<&str> {
        text.char_indices().find_map(|(at, first)| {
            let tokens = self.control.get(&first)?;
            tokens
                .iter()
                .find(|token| text[at..].starts_with(token.as_str()))
                .map(String::as_str)
        })
    }
}
