//! The parts of a turn that the model is given and does not write: what the generation prompt
//! already holds, and what the template writes at the end of every text.

use std::ops::Range;

use super::differ::{bracketed, common_prefix, last_token};
use super::owners::Owner;
use super::reasoning::without_reasoning;
use super::turns::Turns;

impl Turns<'_> {
    /// `own`, the part of answer `index`, without the reasoning that the generation prompt opens or
    /// closes for the model.
    pub(super) fn without_given(&self, index: usize, own: Range<usize>) -> Range<usize> {
        let Some(prompt) = self.stage.part(&self.stage.messages[..index], true) else {
            return own;
        };
        let given = &prompt[without_reasoning(&prompt).len()..];
        let is_given = !given.is_empty() && self.whole[own.clone()].starts_with(given);
        if is_given {
            own.start + given.len()..own.end
        } else {
            own
        }
    }

    /// `own` without what the template writes there although nothing is answered yet, such as a
    /// footer: the model is given it too. The token that ends the turn stays.
    pub(super) fn without_footer(&self, index: usize, own: Range<usize>) -> Range<usize> {
        let ends = self
            .places()
            .of(Owner::Message(index))
            .filter(|range| range.start < own.end)
            .map(|range| range.end);
        let last = ends.max().unwrap_or(own.start).clamp(own.start, own.end);
        let tail = &self.whole[last..own.end];
        if tail.trim().is_empty() {
            return own;
        }
        let places = self.places().list.iter().map(|place| place.range.end);
        let previous = places.filter(|end| *end <= own.start).max().unwrap_or(0);
        let kept = [false, true].into_iter().find_map(|prompt| {
            let before = self.stage.part(&self.stage.messages[..index], prompt)?;
            // Where earlier text is written otherwise, nothing tells what belongs to the end.
            let shared =
                Some(common_prefix(&before, self.whole)).filter(|shared| *shared >= previous)?;
            before_ending(tail, &before[shared..])
        });
        let Some(kept) = kept else { return own };
        let eos = Some(self.stage.template.special.eos.as_str()).filter(|eos| !eos.is_empty());
        let ends = [eos, self.terminator()].into_iter().flatten();
        let ended = ends
            .filter_map(|end| tail.find(end).map(|at| at + end.len()))
            .min()
            .unwrap_or(0);
        own.start..last + tail[..kept].trim_end().len().max(ended)
    }
}

/// Bytes of `tail` before the longest ending of `footer` that it ends with; an ending begins with a
/// token, behind one, or with a line.
fn before_ending(tail: &str, footer: &str) -> Option<usize> {
    let (tail, footer) = (tail.trim_end(), footer.trim_end());
    let begins = |at: &usize| {
        let before = &footer[..*at];
        before.is_empty()
            || before.ends_with('\n')
            || bracketed(&footer[*at..]).is_some()
            || last_token(before).is_some()
    };
    let places = footer.char_indices().map(|(at, _)| at).filter(begins);
    let mut endings = places
        .map(|at| footer[at..].trim_start())
        .filter(|ending| !ending.is_empty());
    endings
        .find(|ending| tail.ends_with(ending))
        .map(|ending| tail.len() - ending.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_what_both_end_with_from_a_token_or_a_line_on() {
        for (tail, footer, kept) in [
            ("</s>\nBe nice.", "Be nice.", Some(5)),
            ("</s>\nBe nice.\n", "<|bot|>\nBe nice.", Some(5)),
            ("</s>\nBe nice.", "<|bot|>Be nice.", Some(5)),
            ("</s>", "<|bot|>", None),
            ("</s>", "", None),
            ("Over.", "Reply now.", None),
        ] {
            assert_eq!(before_ending(tail, footer), kept, "{tail} {footer}");
        }
    }
}
