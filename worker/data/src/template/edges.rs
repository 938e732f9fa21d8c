//! The part of a turn that is the assistant's own: not the header of the turn, not what the
//! template puts between the header and the answer, and nothing that another wrote.

use std::ops::Range;

use serde_json::json;

use super::differ::{bracketed, common_prefix, last_token};
use super::fault::TemplateError;
use super::fields::WITHOUT_CALLS;
use super::owners::{Owner, Place, overlap};
use super::pens::Pens;
use super::reasoning::reasoning_token;
use super::turns::Turns;

impl Turns<'_> {
    /// `turn`, which was found for message `index`, without what the template writes around the
    /// assistant's own text.
    ///
    /// # Errors
    /// Another's text stands within, and it does not show where the assistant's ends.
    pub(super) fn own_part(
        &self,
        index: usize,
        turn: Range<usize>,
    ) -> Result<Range<usize>, TemplateError> {
        let within = |place: &&Place| overlap(&turn, &place.range);
        let (own, others): (Vec<&Place>, Vec<&Place>) = self
            .places()
            .list
            .iter()
            .filter(within)
            .partition(|place| place.owner == Owner::Message(index));
        let foreign = |place: &Place| TemplateError::foreign(index, place.owner);
        let edges = own
            .iter()
            .map(|place| place.range.start)
            .min()
            .zip(own.iter().map(|place| place.range.end).max());
        let Some((first, last)) = edges else {
            return others.first().map_or(Ok(turn), |place| Err(foreign(place)));
        };
        let (first, last) = (first.max(turn.start), last.min(turn.end));
        if let Some(place) = others
            .iter()
            .find(|place| place.range.end > first && place.range.start < last)
        {
            return Err(foreign(place));
        }
        let mixed = others.iter().any(|place| place.range.end <= first);
        let start = self.own_start(index, turn.start..first, mixed)?;
        let behind = others.iter().find(|place| place.range.start >= last);
        let end = self.own_end(last, &turn, behind.map(|place| place.range.start));
        let end = end.ok_or_else(|| {
            behind.map_or(TemplateError::Unclear { index }, |place| foreign(place))
        })?;
        Ok(start..end)
    }

    /// Where the assistant's part begins, within what stands before its first text; `mixed` where
    /// another's text does.
    fn own_start(
        &self,
        index: usize,
        lead: Range<usize>,
        mixed: bool,
    ) -> Result<usize, TemplateError> {
        let first = lead.end;
        let previous = self
            .places()
            .list
            .iter()
            .map(|place| place.range.end)
            .filter(|end| *end <= first)
            .max()
            .unwrap_or(0);
        let unclear = || TemplateError::Unclear { index };
        let prompt = self.prompt(index).unwrap_or_default();
        let Some(plain) = self.plain_lead(index, previous) else {
            let is_behind_prompt =
                !mixed && (!prompt.trim().is_empty() || self.whole[lead.clone()].trim().is_empty());
            return if is_behind_prompt {
                Ok(lead.start)
            } else {
                Err(unclear())
            };
        };
        let header = [prompt.trim_start(), prompt.trim()]
            .into_iter()
            .find(|header| plain.contains(header));
        if let (Some(header), false) = (header.filter(|header| !header.is_empty()), mixed) {
            // What the prompt does not hold, the model writes.
            if header == prompt.trim_start() {
                return Ok(lead.start);
            }
            let behind = plain
                .rfind(header)
                .map_or(plain.len(), |at| at + header.len());
            return Ok(lead.start + separator(&plain[behind..], &self.whole[lead]));
        }
        // Nothing tells the header but that the template writes it before every answer.
        let header = reasoning_token(&plain).map_or(plain.as_str(), |at| &plain[..at]);
        let start = previous + behind(header, &self.whole[previous..first]).ok_or_else(unclear)?;
        Ok(start.max(lead.start))
    }

    /// What the template writes between the text before turn `index`, which ends at `previous`, and
    /// a plain answer there.
    fn plain_lead(&self, index: usize, previous: usize) -> Option<String> {
        let mark = self.stage.template.marks.stand_in;
        let mut messages = self.stage.messages.clone();
        messages[index] = json!({"role": "assistant", "content": mark.to_string()});
        // A template may refuse a conversation that ends here, or a plain answer before a result.
        let here = self.stage.part(&messages[..=index], false);
        if here.is_some() {
            messages.truncate(index + 1);
        }
        let text = here.or_else(|| self.stage.part(&messages, false))?;
        if let Some(rest) = text.strip_prefix(&self.whole[..previous]) {
            return rest.find(mark).map(|at| rest[..at].to_owned());
        }
        // The template writes the earlier text otherwise when the conversation ends here.
        let owners: Vec<Owner> = (0..index).map(Owner::Message).collect();
        let pens = Pens::of(self.stage, &owners)?;
        owners
            .iter()
            .zip(&mut messages)
            .for_each(|(owner, message)| pens.mark(message, *owner, WITHOUT_CALLS));
        let (text, places) = pens.read(&self.stage.part(&messages, false)?)?;
        let end = text.find(mark)?;
        let start = places
            .iter()
            .map(|place| place.range.end)
            .filter(|at| *at <= end)
            .max()
            .unwrap_or(0);
        Some(text[start..end].to_owned())
    }

    /// Where the assistant's part ends, whose last text ends at `last`; none where another's text
    /// follows and nothing ends the turn before it.
    fn own_end(&self, last: usize, turn: &Range<usize>, behind: Option<usize>) -> Option<usize> {
        let eos = Some(self.stage.template.special.eos.as_str()).filter(|eos| !eos.is_empty());
        let tail = &self.whole[last..behind.unwrap_or(turn.end)];
        let ended = |token: &str| tail.find(token).map(|at| last + at + token.len());
        if let Some(end) = eos.and_then(ended) {
            return Some(end);
        }
        if behind.is_some() {
            return self.terminator().and_then(ended);
        }
        // The conversation that ends with this turn may end otherwise, or be refused.
        let is_open = !tail
            .char_indices()
            .any(|(at, _)| bracketed(&tail[at..]).is_some());
        let next = self
            .places()
            .list
            .iter()
            .map(|place| place.range.start)
            .filter(|start| *start >= turn.end)
            .min();
        let rest = &self.whole[turn.end..next.unwrap_or(self.whole.len())];
        let ended = eos
            .filter(|_| is_open)
            .and_then(|eos| rest.find(eos).map(|at| at + eos.len()));
        let ended = ended.or_else(|| {
            [eos, self.terminator()]
                .into_iter()
                .flatten()
                .find_map(|end| right_behind(tail, rest, end))
        });
        let ended = ended.filter(|end| {
            self.header_token()
                .is_none_or(|header| !rest[..*end].contains(header))
        });
        Some(turn.end + ended.unwrap_or(0))
    }
}

/// Bytes of `rest`, which follows a turn that ends with `tail`, up to behind `end` where nothing
/// but white space stands before it: some templates leave the end token off the last turn of a
/// conversation only. A turn that a token ends has its end; a closing tag, such as `</tool_call>`,
/// is none.
fn right_behind(tail: &str, rest: &str, end: &str) -> Option<usize> {
    let is_ended = last_token(tail.trim_end()).is_some_and(|token| !token.starts_with("</"));
    let space = rest.len() - rest.trim_start().len();
    (!is_ended && rest[space..].starts_with(end)).then_some(space + end.len())
}

/// Bytes of `lead`, which stands between the prompt and the answer, that the template puts there
/// before a plain answer too. What holds a token in brackets, such as `<think>`, is written by the
/// model, but for white space before it.
fn separator(plain: &str, lead: &str) -> usize {
    let has_token = plain
        .char_indices()
        .any(|(at, _)| bracketed(&plain[at..]).is_some());
    let plain = if has_token {
        &plain[..plain.len() - plain.trim_start().len()]
    } else {
        plain
    };
    let mut endings = plain.char_indices().map(|(at, _)| &plain[at..]);
    endings
        .find(|ending| lead.starts_with(*ending))
        .map_or(0, str::len)
}

/// Where `header` ends in `text`: all of it, the most of its end that begins with a token or a
/// line, or what both begin with, where the text has no more of its tokens.
fn behind(header: &str, text: &str) -> Option<usize> {
    let header = if text.starts_with(header) {
        header
    } else {
        header.trim_end()
    };
    if text.starts_with(header) {
        return Some(header.len());
    }
    let token = |at: usize| bracketed(&header[at..]).map(|length| &header[at..at + length]);
    let places = || header.char_indices().map(|(at, _)| at);
    let begins = |at: &usize| token(*at).is_some() || header[..*at].ends_with('\n');
    let ending = places()
        .filter(begins)
        .find_map(|at| Some(text.find(&header[at..])? + header.len() - at));
    let shared = common_prefix(header, text);
    let is_all = || {
        places()
            .filter(|at| *at >= shared)
            .filter_map(token)
            .all(|token| !text[shared..].contains(token))
    };
    ending.or_else(|| (shared > 0 && is_all()).then_some(shared))
}
