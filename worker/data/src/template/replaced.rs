//! Where a rendered text changes with one message: its own text is replaced by a character that
//! occurs nowhere else, and the conversation is rendered again.

use std::ops::Range;

use serde_json::Value;

use super::differ::differing;
use super::stage::Stage;
use super::stand_in::{Calls, stand_in};

/// Where `whole` differs once the text of message `index` is replaced, and the message that did it.
pub(super) fn replaced(
    stage: &Stage<'_>,
    whole: &str,
    index: usize,
) -> Option<(Range<usize>, Value)> {
    replacements(stage, whole, index).next()
}

/// The same for every way of replacing it: a name that is replaced may change the results of its
/// call too.
pub(super) fn replacements(
    stage: &Stage<'_>,
    whole: &str,
    index: usize,
) -> impl Iterator<Item = (Range<usize>, Value)> {
    let message = &stage.messages[index];
    let mark = stage.template.marks.stand_in;
    let mut forms = [Calls::Whole, Calls::Arguments, Calls::Kept]
        .map(|calls| stand_in(message, mark, calls))
        .to_vec();
    forms.dedup();
    forms.into_iter().filter_map(move |form| {
        let mut messages = stage.messages.clone();
        messages[index] = form;
        let other = stage.part(&messages, false)?;
        (other != whole).then(|| (differing(whole, &other), messages.swap_remove(index)))
    })
}
