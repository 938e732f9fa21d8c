//! Renders a conversation and tells which part of the text is trained on.

use std::ops::Range;

use super::answers::Pieces;
use super::compiled::ChatTemplate;
use super::fault::{Lost, TemplateError, Unwritten};
use super::held::Answer;
use super::owners::overlap;
use super::stage::{Stage, Unmarked};
use super::turns::Turns;
use super::unwritten::{unwritten, unwritten_fields, writes_tools};
use crate::chat::Conversation;
use crate::message::is_trained_on;

/// A conversation as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of the assistant's text, tool calls and end of turn that are trained on,
    /// ascending.
    pub assistant: Vec<Range<usize>>,
    /// What of the answers that are trained on is not among that text.
    pub lost: Vec<Lost>,
    /// Messages that are not trained on, and tools, of which the text holds nothing.
    pub unwritten: Vec<Unwritten>,
    /// Fields of messages of which the text holds nothing: `reasoning_content`, `name`.
    pub unwritten_fields: Vec<&'static str>,
}

impl ChatTemplate {
    /// Renders `conversation`, ready for the model to answer when `generation_prompt` is set.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn text(
        &self,
        conversation: &Conversation,
        generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, generation_prompt)?;
        Ok(stage.shown(&stage.taken(&raw).text))
    }

    /// Whether the template tells a model that is to answer `conversation` of its tools, if it has
    /// any.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn writes_tools(&self, conversation: &Conversation) -> Result<bool, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, true)?;
        Ok(stage.tools.is_empty() || writes_tools(&stage, &stage.taken(&raw).text, true))
    }

    /// Renders `conversation` and tells which part is trained on.
    ///
    /// # Errors
    /// The template refuses the conversation, does not show which part of the text is a turn's, or
    /// mixes others' text into it.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, false)?;
        let Unmarked { text, mut blocks } = stage.taken(&raw);
        let turns = Turns::of(&stage, &text);
        let (trained, untrained) = answers(conversation);
        let marked = stage.variant.marked;
        let pieces = if marked {
            leave_out(&turns, &untrained, &mut blocks)?;
            turns.marked(&blocks, &trained)?
        } else {
            turns.found(&trained)?
        };
        let (whole, lost) = held(&turns, &pieces, marked)?;
        turns.independent(&whole)?;
        let assistant = if marked {
            blocks
        } else {
            whole
                .into_iter()
                .try_for_each(|answer| turns.ends_itself(answer))?;
            pieces
                .into_iter()
                .flat_map(|answer| answer.ranges)
                .collect()
        };
        Ok(Rendered {
            text: stage.shown(&text),
            assistant,
            lost,
            unwritten: unwritten(&turns, &trained),
            unwritten_fields: unwritten_fields(&stage, &text),
        })
    }
}

/// The places of the assistant's messages: of those that are trained on, and of the others.
fn answers(conversation: &Conversation) -> (Vec<usize>, Vec<usize>) {
    let messages = &conversation.messages;
    (0..messages.len())
        .filter(|&index| messages[index]["role"] == "assistant")
        .partition(|&index| is_trained_on(&messages[index]))
}

/// Takes the blocks of the answers `untrained` out of `blocks`.
fn leave_out(
    turns: &Turns<'_>,
    untrained: &[usize],
    blocks: &mut Vec<Range<usize>>,
) -> Result<(), TemplateError> {
    let mut shown = Vec::new();
    for &index in untrained {
        shown.extend(turns.turn(index)?);
    }
    blocks.retain(|block| !shown.iter().any(|turn| overlap(turn, block)));
    Ok(())
}

/// The answers of which `pieces` hold all, and what they lack of the others.
fn held<'p>(
    turns: &Turns<'_>,
    pieces: &'p [Pieces],
    marked: bool,
) -> Result<(Vec<&'p Pieces>, Vec<Lost>), TemplateError> {
    let (mut whole, mut all_lost) = (Vec::new(), Vec::new());
    for answer in pieces {
        turns.in_order(answer)?;
        let lost = Answer {
            turns,
            index: answer.index,
            pieces: &answer.ranges,
            marked,
        }
        .lost();
        match lost {
            Some(lost) => all_lost.push(lost),
            None => whole.push(answer),
        }
    }
    Ok((whole, all_lost))
}
