//! Finds what is trained on of each answer, and checks that nothing else is.

use std::ops::Range;

use super::differ::last_token;
use super::fault::TemplateError;
use super::owners::{Owner, overlap};
use super::turns::{Turns, closed};

/// The pieces of the text that are trained on for one message.
pub(super) struct Pieces {
    pub index: usize,
    pub ranges: Vec<Range<usize>>,
}

impl Turns<'_> {
    /// The pieces of the answers `trained`, for a template that does not mark them.
    ///
    /// # Errors
    /// It is not clear which they are, or another's text stands in one.
    pub(super) fn found(&self, trained: &[usize]) -> Result<Vec<Pieces>, TemplateError> {
        let of = |&index: &usize| {
            let ranges: Vec<Range<usize>> = self.find(index)?.into_iter().collect();
            self.only(&ranges, index, |owner| owner == Owner::Message(index))?;
            Ok(Pieces { index, ranges })
        };
        trained.iter().map(of).collect()
    }

    /// Where the assistant's own part of turn `index` stands, its end-of-turn token included; none
    /// where the template leaves it out.
    fn find(&self, index: usize) -> Result<Option<Range<usize>>, TemplateError> {
        let Some(turn) = self.turn(index)? else {
            return Ok(None);
        };
        let own = self.own_part(index, turn)?;
        Ok(Some(
            self.without_footer(index, self.without_given(index, own)),
        ))
    }

    /// The same for a template that marks `blocks`.
    ///
    /// # Errors
    /// Text of others than the assistant stands in one.
    pub(super) fn marked(
        &self,
        blocks: &[Range<usize>],
        trained: &[usize],
    ) -> Result<Vec<Pieces>, TemplateError> {
        let is_answer = |owner| matches!(owner, Owner::Message(index) if self.stage.messages[index]["role"] == "assistant");
        let of = |&index: &usize| {
            let owner = Owner::Message(index);
            let is_own =
                |block: &&Range<usize>| self.places().of(owner).any(|range| overlap(block, range));
            let ranges: Vec<Range<usize>> = match self.places().is_exact(owner) {
                true => blocks.iter().filter(is_own).cloned().collect(),
                false => blocks.to_vec(),
            };
            self.only(&ranges, index, is_answer)?;
            Ok(Pieces { index, ranges })
        };
        let pieces: Vec<Pieces> = trained.iter().map(of).collect::<Result<_, _>>()?;
        // A block without an answer is the first one's.
        self.only(
            blocks,
            trained.first().copied().unwrap_or_default(),
            is_answer,
        )?;
        Ok(pieces)
    }

    /// Refuses text in `pieces` that is not `own`.
    fn only(
        &self,
        pieces: &[Range<usize>],
        index: usize,
        own: impl Fn(Owner) -> bool,
    ) -> Result<(), TemplateError> {
        let mut others = self.places().list.iter().filter(|place| !own(place.owner));
        let foreign = others.find(|place| pieces.iter().any(|piece| overlap(piece, &place.range)));
        foreign.map_or(Ok(()), |place| {
            Err(TemplateError::foreign(index, place.owner))
        })
    }

    /// Refuses an answer before whose end another's text stands.
    pub(super) fn ends_itself(&self, answer: &Pieces) -> Result<(), TemplateError> {
        let Some(range) = answer.ranges.last() else {
            return Ok(());
        };
        let after = self
            .stage
            .part(&self.stage.messages[..=answer.index], false);
        let eos = Some(self.stage.template.special.eos.as_str()).filter(|eos| !eos.is_empty());
        // The template may not render a conversation that ends here.
        let end = after
            .as_deref()
            .map_or(eos, |after| last_token(closed(after)));
        let Some(end) = end else { return Ok(()) };
        let own = &self.whole[range.clone()];
        if [Some(end), eos, self.terminator()]
            .into_iter()
            .flatten()
            .any(|end| own.contains(end))
        {
            return Ok(());
        }
        let mut behind = self
            .places()
            .list
            .iter()
            .skip_while(|place| place.range.start < range.end);
        let Some(first) = behind.next() else {
            return Ok(());
        };
        let next = behind
            .find(|place| place.owner != first.owner)
            .map(|place| place.range.start);
        let from = if self.places().is_exact(first.owner) {
            first.range.end
        } else {
            first.range.start
        };
        let other = &self.whole[from..next.unwrap_or(self.whole.len()).max(from)];
        if other.contains(end) {
            Err(TemplateError::foreign(answer.index, first.owner))
        } else {
            Ok(())
        }
    }

    /// Refuses answers that change with the length of what others say: they hold a part of it, or
    /// count it.
    ///
    /// # Errors
    /// Names the first such answer, and the other message.
    pub(super) fn independent(&self, answers: &[&Pieces]) -> Result<(), TemplateError> {
        let messages = &self.stage.messages;
        let others = (0..messages.len()).filter(|index| messages[*index]["role"] != "assistant");
        let others: Vec<usize> = others
            .filter(|index| messages[*index]["content"].is_string())
            .collect();
        if self.changed_by(&others, answers).is_none() {
            return Ok(());
        }
        let changed = others
            .iter()
            .find_map(|other| Some((self.changed_by(&[*other], answers)?, *other)));
        changed.map_or(Ok(()), |(index, other)| {
            Err(TemplateError::foreign(index, Owner::Message(other)))
        })
    }

    /// The first of `answers` that is another one once `others` say all that they say twice.
    fn changed_by(&self, others: &[usize], answers: &[&Pieces]) -> Option<usize> {
        let mut messages = self.stage.messages.clone();
        for other in others {
            let text = messages[*other]["content"].as_str().unwrap_or_default();
            messages[*other]["content"] = format!("{text} {text}").into();
        }
        let text = self.stage.part(&messages, false)?;
        let mut from = 0;
        for answer in answers {
            for range in &answer.ranges {
                match text[from..].find(&self.whole[range.clone()]) {
                    Some(at) => from += at + range.len(),
                    None => return Some(answer.index),
                }
            }
        }
        None
    }

    /// Refuses an answer that the template does not write between the messages before and after it.
    /// The system's text has no place of its own: many templates write it into a question.
    pub(super) fn in_order(&self, answer: &Pieces) -> Result<(), TemplateError> {
        // Between the calls of an answer and its text, some templates write results.
        let Some(start) = answer.ranges.iter().map(|range| range.start).min() else {
            return Ok(());
        };
        let index = answer.index;
        for (other, message) in self.stage.messages.iter().enumerate() {
            let owner = Owner::Message(other);
            let has_place = message["role"] != "system" && message["role"] != "developer";
            if !has_place || other == index || !self.places().is_exact(owner) {
                continue;
            }
            let first = self.places().of(owner).map(|range| range.start).min();
            let last = self.places().of(owner).map(|range| range.end).max();
            if other < index && first.is_some_and(|first| first >= start) {
                return Err(TemplateError::Order {
                    index,
                    side: "before",
                    other,
                });
            }
            if other > index && last.is_some_and(|last| last <= start) {
                return Err(TemplateError::Order {
                    index,
                    side: "behind",
                    other,
                });
            }
        }
        Ok(())
    }
}
