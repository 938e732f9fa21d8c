//! Which part of a rendered conversation is one assistant turn, for a template that does not say.
//!
//! The simple case: the conversation before the turn, with the generation prompt, is a prefix of the conversation
//! with the turn, and that is a prefix of the whole. Templates that change earlier text when a turn is added (they
//! move the list of tools to the last question, or drop earlier reasoning) break that. There the turn is found by
//! what depends on it: the conversation is rendered again with the turn's own text replaced by characters that
//! occur nowhere else, and the two renderings differ exactly where the turn's text stands. What the model writes
//! around that text (a marker before a call, the end of turn) is read off the shorter conversation that ends with
//! the turn, or off what follows the message before, and must stand in the whole at the same place; where it does not,
//! the template is refused rather than guessed at.

use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::chat::Conversation;
use crate::template::{ChatTemplate, TemplateError};

/// Stands for a turn's text; a character of a private plane that no data hold.
const STAND_IN: &str = "\u{F0003}";

impl ChatTemplate {
    /// Where the assistant's turn `index` stands in `whole`, its end-of-turn token included.
    pub(crate) fn turn(
        &self,
        conversation: &Conversation,
        index: usize,
        whole: &str,
    ) -> Result<Range<usize>, TemplateError> {
        let (messages, tools) = (&conversation.messages, &conversation.tools);
        let prompted = self.raw(&messages[..index], tools, true)?;
        let after = self.raw(&messages[..=index], tools, false)?;
        // White space after the end-of-turn token belongs to the next turn.
        let trimmed = after.trim_end();
        if whole.starts_with(trimmed) && trimmed.starts_with(&prompted) {
            return Ok(prompted.len()..trimmed.len());
        }
        let unclear = || TemplateError::Unclear { index };
        let mut replaced = messages.clone();
        replaced[index] = stand_in(&messages[index]);
        let here = differing(&after, &self.raw(&replaced[..=index], tools, false)?);
        let there = differing(whole, &self.raw(&replaced, tools, false)?);
        let tail = after[here.end..].trim_end();
        let before = self.raw(&messages[..index], tools, false)?;
        let lead = if after.starts_with(&before) {
            // A generation prompt may hold more than the turn does, such as an opened and closed block of reasoning.
            let start = before.len().max(common_prefix(&prompted, &after));
            after.get(start..here.start).ok_or_else(unclear)?
        } else {
            self.lead_after_previous(conversation, index, (&prompted, whole), there.start)?.ok_or_else(unclear)?
        };
        if whole[..there.start].ends_with(lead) && whole[there.end..].starts_with(tail) {
            Ok(there.start - lead.len()..there.end + tail.len())
        } else {
            Err(unclear())
        }
    }

    /// What the model writes before the text of turn `index`, which begins at `start` of `whole`, where the template
    /// renders even the messages before the turn in another way once the turn is there (a system message that goes with
    /// the last question only): what follows the previous message and is not the generation prompt.
    fn lead_after_previous<'w>(
        &self,
        conversation: &Conversation,
        index: usize,
        (prompted, whole): (&str, &'w str),
        start: usize,
    ) -> Result<Option<&'w str>, TemplateError> {
        let Some(previous) = index.checked_sub(1) else { return Ok(None) };
        let mut replaced = conversation.messages.clone();
        replaced[previous] = stand_in(&replaced[previous]);
        let (whole_too, prompted_too) = (
            self.raw(&replaced, &conversation.tools, false)?,
            self.raw(&replaced[..index], &conversation.tools, true)?,
        );
        if whole == whole_too {
            return Ok(None);
        }
        let (there, here) = (differing(whole, &whole_too), differing(prompted, &prompted_too));
        let Some(between) = whole.get(there.end..start) else { return Ok(None) };
        Ok(Some(&between[common_prefix(&prompted[here.end..], between)..]))
    }
}

/// `message` with its text, and the names and arguments of its calls, replaced.
fn stand_in(message: &Value) -> Value {
    let mut message = message.clone();
    let mut called = false;
    for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
        let function = if call.get("function").is_some() { &mut call["function"] } else { call };
        function["name"] = STAND_IN.into();
        function["arguments"] = Value::Object(Map::from_iter([(STAND_IN.to_owned(), STAND_IN.into())]));
        called = true;
    }
    match &mut message["content"] {
        // An empty text beside calls is often left out by the template: replacing it would add a part.
        Value::String(text) if !(called && text.is_empty()) => *text = STAND_IN.into(),
        Value::Array(parts) => {
            for part in parts.iter_mut().filter(|part| part["text"].is_string()) {
                part["text"] = json!(STAND_IN);
            }
        }
        _ => {}
    }
    message
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

fn common_suffix(a: &str, b: &str) -> usize {
    let equal = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y);
    equal.map(|(x, _)| x.len_utf8()).sum()
}

/// The part of `text` that `other` has differently.
fn differing(text: &str, other: &str) -> Range<usize> {
    let start = common_prefix(text, other);
    let end = text.len() - common_suffix(&text[start..], &other[start..]);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_ends_where_the_texts_agree_again() {
        assert_eq!(differing("ab[x]cd", "ab[yy]cd"), 3..4);
        assert_eq!(differing("ab[]cd", "ab[yy]cd"), 3..3);
        assert_eq!(differing("aaa", "aa"), 2..3);
        assert_eq!(differing("é1ü", "é2ü"), 2..3);
    }
}
