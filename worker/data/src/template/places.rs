//! Where the texts of each message stand in a rendered conversation.
//!
//! The conversation is rendered again with every text between two marks; the first mark names the
//! message. If the two renderings are the same but for the marks, the marks tell the owner of each
//! character, however often the template writes a text and however it changes it. A template that
//! examines a text, or cuts it, may render differently with marks; then the messages are marked one
//! by one. A part that is taken out of a text has no marks, so the conversation is also rendered
//! with other letters and, where a message has no marks, with other punctuation
//! ([`super::letters`]). The owner of what all of these leave open is found by where the text
//! changes with the message.

use std::ops::Range;

use super::differ::differing;
use super::fields::{Change, DEPTHS};
use super::letters;
use super::owners::{Owner, Place, Places};
use super::pens::Pens;
use super::replaced::replaced;
use super::stage::Stage;

/// The places of all texts of the conversation of `stage`, which is rendered as `whole`.
pub(super) fn places(stage: &Stage<'_>, whole: &str) -> Places {
    let messages = (0..stage.messages.len()).map(Owner::Message);
    let owners: Vec<Owner> = messages
        .chain((!stage.tools.is_empty()).then_some(Owner::Tools))
        .collect();
    let pens = Pens::of(stage, &owners);
    let marked = |owners: &[Owner], depth| pens.as_ref()?.traced(stage, whole, owners, depth);
    let together = marked(&owners, DEPTHS[0]);
    let mut found = Places {
        list: together.clone().unwrap_or_default(),
        exact: Vec::new(),
    };
    if together.is_some() {
        found.exact.clone_from(&owners);
    } else {
        for &owner in &owners {
            if let Some(places) = DEPTHS.into_iter().find_map(|depth| marked(&[owner], depth)) {
                found.list.extend(places);
                found.exact.push(owner);
            }
        }
    }
    let traced = found.exact.clone();
    for group in groups(stage, &owners) {
        by_letters(stage, whole, &group, &mut found);
    }
    for &owner in owners.iter().filter(|owner| !traced.contains(owner)) {
        by_signs(stage, whole, owner, &mut found);
    }
    for &owner in owners.iter().filter(|owner| !found.exact.contains(owner)) {
        let rough = match owner {
            Owner::Message(index) => replaced(stage, whole, index).map(|(range, _)| range),
            Owner::Tools => without_descriptions(stage, whole),
        };
        found.list.extend(rough.map(|range| Place { range, owner }));
    }
    found.list.sort_by_key(|place| place.range.start);
    found
}

/// Owners whose letters are changed at once: those whose marks show all that they write. Answers
/// that call are each for themselves, since numbers have no marks, and so are those without exact
/// marks.
fn groups(stage: &Stage<'_>, owners: &[Owner]) -> Vec<Vec<Owner>> {
    let calls = |owner: &Owner| matches!(owner, Owner::Message(index) if stage.messages[*index]["tool_calls"].is_array());
    let (single, together): (Vec<Owner>, Vec<Owner>) =
        owners.iter().partition(|owner| calls(owner));
    single
        .into_iter()
        .map(|owner| vec![owner])
        .chain([together])
        .filter(|group| !group.is_empty())
        .collect()
}

/// Adds what changes with the letters of `owners` and stands in none of their places yet.
fn by_letters(stage: &Stage<'_>, whole: &str, owners: &[Owner], found: &mut Places) {
    let changed = |depth| {
        let (mut messages, mut tools) = (stage.messages.clone(), stage.tools.clone());
        for owner in owners {
            match *owner {
                Owner::Message(index) => letters::with_other_letters(&mut messages[index], depth),
                Owner::Tools => tools.iter_mut().for_each(letters::tool_with_other_letters),
            }
        }
        letters::changed(whole, &stage.part_with(&messages, &tools, false)?)
    };
    let Some(ranges) = DEPTHS.into_iter().find_map(changed) else {
        if owners.len() > 1 {
            owners
                .iter()
                .for_each(|owner| by_letters(stage, whole, &[*owner], found));
        }
        return;
    };
    let fresh = found.without_known(ranges, owners);
    match owners {
        [owner] => {
            found.list.extend(fresh.into_iter().map(|range| Place {
                range,
                owner: *owner,
            }));
            if !found.exact.contains(owner) {
                found.exact.push(*owner);
            }
        }
        _ if fresh.is_empty() => found.exact.extend(
            owners
                .iter()
                .filter(|owner| !found.exact.contains(owner))
                .collect::<Vec<_>>(),
        ),
        _ => owners
            .iter()
            .for_each(|owner| by_letters(stage, whole, &[*owner], found)),
    }
}

/// Adds what changes with the punctuation marks of `owner`, which has no marks of ours.
fn by_signs(stage: &Stage<'_>, whole: &str, owner: Owner, found: &mut Places) {
    let changed = |(escaped, depth)| {
        let (mut messages, mut tools) = (stage.messages.clone(), stage.tools.clone());
        match owner {
            Owner::Message(index) => {
                letters::with_other_signs(&mut messages[index], depth, escaped);
            }
            Owner::Tools => tools
                .iter_mut()
                .for_each(|tool| letters::tool_with_other_signs(tool, escaped)),
        }
        letters::changed(whole, &stage.part_with(&messages, &tools, false)?)
    };
    let mut ways = [true, false]
        .into_iter()
        .flat_map(|escaped| DEPTHS.map(|depth| (escaped, depth)));
    let fresh = found.without_known(ways.find_map(changed).unwrap_or_default(), &[owner]);
    found
        .list
        .extend(fresh.into_iter().map(|range| Place { range, owner }));
}

/// Where the text changes once the tools say nothing in words.
fn without_descriptions(stage: &Stage<'_>, whole: &str) -> Option<Range<usize>> {
    let mut tools = stage.tools.clone();
    let nothing = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            stage.template.marks.stand_in.to_string()
        }
    };
    tools.iter_mut().for_each(|tool| {
        Change {
            text: &nothing,
            number: &Clone::clone,
        }
        .descriptions(tool)
    });
    let other = stage.part_with(&stage.messages, &tools, false)?;
    (other != whole).then(|| differing(whole, &other))
}
