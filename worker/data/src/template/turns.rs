//! Which part of a rendered conversation is one assistant turn, for a template that does not say.
//!
//! The simple case: the conversation before the turn, with the generation prompt, is a prefix of
//! the conversation with the turn, and that is a prefix of the whole. Templates that change earlier
//! text when a turn is added (they move the list of tools to the last question, or drop earlier
//! reasoning) break that. For them the turn is found by what depends on it: the conversation is
//! rendered again with the turn's own text replaced by a character that occurs nowhere else, and
//! the two renderings differ exactly where the turn's text stands. What the model writes around
//! that text (reasoning or a marker before it, the end of turn after it) lies between the turn's
//! header and the text, and is what the conversation that ends with the turn has after it too.
//! Tokens in brackets are compared whole, so that no part begins inside one.

use std::cell::OnceCell;
use std::ops::Range;

use serde_json::Value;

use super::differ::{bracketed, common_prefix, differing, last_token};
use super::fault::TemplateError;
use super::owners::Places;
use super::places::places;
use super::reasoning::without_reasoning;
use super::replaced::{replaced, replacements};
use super::stage::Stage;

/// The turns of one rendered conversation.
pub(super) struct Turns<'s> {
    pub(super) stage: &'s Stage<'s>,
    pub(super) whole: &'s str,
    places: OnceCell<Places>,
    /// What the template writes before an answer: the generation prompt of the first.
    header: OnceCell<String>,
    /// The token that the template ends a question with.
    terminator: OnceCell<Option<String>>,
}

impl<'s> Turns<'s> {
    pub fn of(stage: &'s Stage<'s>, whole: &'s str) -> Self {
        Self {
            stage,
            whole,
            places: OnceCell::new(),
            header: OnceCell::new(),
            terminator: OnceCell::new(),
        }
    }

    /// Whose each text of the whole is.
    pub fn places(&self) -> &Places {
        self.places.get_or_init(|| places(self.stage, self.whole))
    }

    fn messages(&self) -> &'s [Value] {
        &self.stage.messages
    }

    /// Where turn `index` stands with what the template writes around the assistant's own part; none
    /// where the template leaves it out.
    pub fn turn(&self, index: usize) -> Result<Option<Range<usize>>, TemplateError> {
        let prompted = self.stage.part(&self.messages()[..index], true);
        let after = self.stage.part(&self.messages()[..=index], false);
        if let (Some(prompted), Some(after)) = (&prompted, &after) {
            // White space after the end-of-turn token belongs to the next turn.
            let (turn, before) = (closed(after), without_reasoning(prompted));
            let simple = self.whole.starts_with(turn) && turn.starts_with(before);
            if let Some(turn) = simple
                .then(|| self.without_header(before.len()..turn.len()))
                .filter(|t| self.is_one(t))
            {
                return Ok(Some(turn));
            }
        }
        let mut rendered = false;
        for (text, replaced) in replacements(self.stage, self.whole, index) {
            rendered = true;
            let Some(start) = self.start(index, text.start, prompted.as_deref()) else {
                continue;
            };
            let turn = start..self.end(index, &text, after.as_deref(), &replaced);
            if !self.holds_results(index, &turn) {
                return Ok(Some(turn));
            }
        }
        if rendered {
            Err(TemplateError::Unclear { index })
        } else {
            Ok(None)
        }
    }

    /// Where the whole differs once the text of message `index` is replaced.
    fn replaced(&self, index: usize) -> Option<(Range<usize>, Value)> {
        replaced(self.stage, self.whole, index)
    }

    /// Whether results of the calls of turn `index` stand within `turn`: some templates write them
    /// between its calls and its text.
    fn holds_results(&self, index: usize, turn: &Range<usize>) -> bool {
        let results = self.messages()[index + 1..]
            .iter()
            .take_while(|message| message["role"] == "tool")
            .count();
        let within = |at: Range<usize>| turn.start < at.end && at.start < turn.end;
        (index + 1..=index + results).any(|j| self.replaced(j).is_some_and(|(at, _)| within(at)))
    }

    /// A turn that begins with the header of its own: some templates write it in the middle of a
    /// conversation only.
    fn without_header(&self, turn: Range<usize>) -> Range<usize> {
        let header = self.header();
        let starts_again =
            bracketed(header).is_some() && self.whole[turn.clone()].starts_with(header);
        if starts_again {
            turn.start + header.len()..turn.end
        } else {
            turn
        }
    }

    fn header(&self) -> &str {
        self.header.get_or_init(|| {
            let first = self
                .messages()
                .iter()
                .position(|message| message["role"] == "assistant");
            first
                .and_then(|index| self.prompt(index))
                .unwrap_or_default()
        })
    }

    /// What the generation prompt adds to the messages before turn `index`.
    pub(super) fn prompt(&self, index: usize) -> Option<String> {
        let before = self.stage.part(&self.messages()[..index], false)?;
        let prompted = self.stage.part(&self.messages()[..index], true)?;
        let prompted = without_reasoning(&prompted);
        Some(prompted[common_prefix(prompted, &before)..].to_owned())
    }

    /// Where turn `index` begins, whose text stands at `text`: behind the header of the turn.
    fn start(&self, index: usize, text: usize, prompted: Option<&str>) -> Option<usize> {
        let previous = (0..index)
            .rev()
            .find_map(|j| Some((j, self.replaced(j)?)).filter(|(_, (at, _))| at.end <= text));
        let from = previous.as_ref().map_or(0, |(_, (at, _))| at.end);
        let between = &self.whole[from..text];
        let own = self.prompt(index).unwrap_or_default();
        if let Some(behind) = [own.as_str(), self.header()]
            .iter()
            .find_map(|header| behind_header(between, header))
        {
            return Some(from + behind);
        }
        // Without a header, the turn begins where what follows the previous message and belongs to
        // the prompt ends.
        let prompted = prompted?;
        let follows = match previous {
            Some((j, (_, form))) => {
                let mut messages = self.messages()[..index].to_vec();
                messages[j] = form;
                let other = self.stage.part(&messages, true)?;
                differing(prompted, &other).end
            }
            None => 0,
        };
        Some(from + common_prefix(&prompted[follows..], between))
    }

    /// Whether `turn` holds neither another header nor anything behind its end.
    fn is_one(&self, turn: &Range<usize>) -> bool {
        let turn = &self.whole[turn.clone()];
        let ended = self
            .terminator()
            .and_then(|token| turn.find(token).map(|at| at + token.len()));
        ended.is_none_or(|end| end == turn.len())
            && self
                .header_token()
                .is_none_or(|token| !turn.contains(token))
    }

    pub(super) fn header_token(&self) -> Option<&str> {
        let header = self.header().trim_start();
        bracketed(header).map(|length| &header[..length])
    }

    pub(super) fn terminator(&self) -> Option<&str> {
        let found = self.terminator.get_or_init(|| {
            let question = self
                .messages()
                .iter()
                .position(|message| message["role"] == "user")?;
            let (text, _) = self.replaced(question)?;
            let behind = self.whole[text.end..].trim_start();
            // Up to the header of the answer; where the template has none, the first token.
            let ended = match self.header().trim() {
                "" => &behind[..bracketed(behind)?],
                header => behind[..behind.find(header)?].trim_end(),
            };
            last_token(ended).map(str::to_owned)
        });
        found.as_deref()
    }

    /// Where turn `index` ends, whose text stands at `text`: with what the conversation that ends
    /// there has after it.
    ///
    /// Some templates end the last turn otherwise than those before: these end with the same last
    /// token, or as questions do.
    fn end(
        &self,
        index: usize,
        text: &Range<usize>,
        after: Option<&str>,
        replaced: &Value,
    ) -> usize {
        let own = after.and_then(|after| {
            let mut messages = self.messages()[..=index].to_vec();
            messages[index] = replaced.clone();
            let here = differing(after, &self.stage.part(&messages, false)?);
            Some((&after[here.clone()], closed(&after[here.end..])))
        });
        let (body, own_end) = own.unwrap_or_default();
        // What follows may depend on the text too, such as a result that names its call.
        let alike = !body.is_empty() && self.whole[text.start..].starts_with(body);
        let text_end = if alike {
            text.start + body.len()
        } else {
            self.before_results(text, own_end)
        };
        let rest = &self.whole[text_end..];
        let tail = if rest.starts_with(own_end) {
            own_end
        } else {
            let next = (index + 1..self.messages().len())
                .find_map(|j| self.replaced(j))
                .map(|(at, _)| at.start);
            let rest = &self.whole[text_end..next.unwrap_or(self.whole.len()).max(text_end)];
            let behind = |token: &str| rest.find(token).map(|at| &rest[..at + token.len()]);
            let last = last_token(own_end)
                .and_then(behind)
                .or_else(|| self.terminator().and_then(behind));
            last.unwrap_or_else(|| closed(&rest[..common_prefix(rest, own_end)]))
        };
        text_end + self.before_next(tail).len()
    }

    /// The end of `text`, whose turn ends with the last token of `own_end`: without the header of a
    /// result that names the call, and so differs with it.
    fn before_results(&self, text: &Range<usize>, own_end: &str) -> usize {
        let within = &self.whole[text.clone()];
        let ended =
            last_token(own_end).and_then(|token| within.rfind(token).map(|at| at + token.len()));
        let next = |end: &usize| {
            self.header_token()
                .is_some_and(|token| within[*end..].trim_start().starts_with(token))
        };
        ended.filter(next).map_or(text.end, |end| text.start + end)
    }

    /// `tail` up to the end of the turn, without the header of another.
    fn before_next<'t>(&self, tail: &'t str) -> &'t str {
        let header = self.header_token().and_then(|token| tail.find(token));
        let tail = header.map_or(tail, |at| tail[..at].trim_end());
        let ended = self
            .terminator()
            .and_then(|token| tail.find(token).map(|at| at + token.len()));
        ended.map_or(tail, |end| &tail[..end])
    }
}

/// A turn up to its last token: white space and a token that opens the next part, such as Gemma's
/// `<|tool_response>`, are not the assistant's.
pub(super) fn closed(turn: &str) -> &str {
    let turn = turn.trim_end();
    let opening = turn
        .rfind("<|")
        .filter(|&at| bracketed(&turn[at..]) == Some(turn.len() - at) && !turn.ends_with("|>"));
    opening.map_or(turn, |at| closed(&turn[..at]))
}

/// Where `header` ends in `between`: behind the last place that has the most of it, if that is
/// enough to know it by.
fn behind_header(between: &str, header: &str) -> Option<usize> {
    let places = between
        .char_indices()
        .map(|(at, _)| (common_prefix(header, &between[at..]), at));
    let (length, at) = places.filter(|(length, _)| *length > 0).max()?;
    let known = header[..length].trim().len();
    let enough = bracketed(header.trim_start()).is_some_and(|token| known >= token)
        || 2 * known >= header.trim().len();
    (known > 0 && enough).then_some(at + length)
}
