//! Where the texts of each message stand in a rendered conversation.
//!
//! The conversation is rendered again with every text between two marks, of which the first names
//! the message. Where the two renderings are the same but for the marks, the marks say whose each
//! character is, however often the template writes a text and however it changes it. A template
//! that looks at a text, or cuts it, may render otherwise with marks: then the messages are marked
//! one by one. A part that is taken out of a text has no marks, so the conversation is rendered
//! with other letters too ([`super::letters`]). What both leave open is known by where the text
//! changes with the message.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;

use super::differ::{differing, pieces};
use super::fields::{Change, DEPTHS, Depth};
use super::letters;
use super::stage::{Stage, private};
use super::turns::Turns;

/// Whose a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Message(usize),
    Tools,
}

/// Where a text of a message or of the tools stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub range: Range<usize>,
    pub owner: Owner,
}

/// The places of all texts of a conversation, in order.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub list: Vec<Place>,
    /// Owners whose every character is known; of the others, a part of the text that holds them
    /// all.
    exact: Vec<Owner>,
}

impl Places {
    pub fn is_exact(&self, owner: Owner) -> bool {
        self.exact.contains(&owner)
    }

    pub fn of(&self, owner: Owner) -> impl Iterator<Item = &Range<usize>> {
        self.list
            .iter()
            .filter(move |place| place.owner == owner)
            .map(|place| &place.range)
    }
}

/// The places of all texts of the whole conversation.
pub(super) fn places(turns: &Turns<'_>) -> Places {
    let (stage, whole) = (turns.stage, turns.whole);
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
    for group in groups(stage, &owners) {
        by_letters(stage, whole, &group, &mut found);
    }
    for &owner in owners.iter().filter(|owner| !found.exact.contains(owner)) {
        let rough = match owner {
            Owner::Message(index) => turns.replaced(index).map(|(range, _)| range),
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
    let known = |range: &Range<usize>| {
        let mut places = found
            .list
            .iter()
            .filter(|place| owners.contains(&place.owner));
        places.any(|place| place.range.start <= range.start && range.end <= place.range.end)
    };
    let fresh: Vec<Range<usize>> = ranges.into_iter().filter(|range| !known(range)).collect();
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

/// The characters that mark texts: one that opens for each owner, and one that closes.
pub(super) struct Pens {
    open: Vec<(Owner, char)>,
    close: char,
}

impl Pens {
    /// None where there are more owners than characters that the conversation and the templates do
    /// not hold.
    pub fn of(stage: &Stage<'_>, owners: &[Owner]) -> Option<Self> {
        let mut taken: HashSet<char> = stage.template.marks.all().into_iter().collect();
        stage
            .messages
            .iter()
            .chain(&stage.tools)
            .for_each(|value| collect_private(value, &mut taken));
        taken.extend(
            stage
                .template
                .variants
                .iter()
                .flat_map(|variant| variant.source.chars())
                .filter(is_private),
        );
        let mut free = private().filter(|c| !taken.contains(c));
        let close = free.next()?;
        let open: Vec<(Owner, char)> = owners.iter().copied().zip(free).collect();
        (open.len() == owners.len()).then_some(Self { open, close })
    }

    /// The places of `owners` in `whole`; none where it is rendered otherwise with their marks.
    fn traced(
        &self,
        stage: &Stage<'_>,
        whole: &str,
        owners: &[Owner],
        depth: Depth,
    ) -> Option<Vec<Place>> {
        let (mut messages, mut tools) = (stage.messages.clone(), stage.tools.clone());
        for owner in owners {
            match *owner {
                Owner::Message(index) => self.mark(&mut messages[index], *owner, depth),
                Owner::Tools => tools
                    .iter_mut()
                    .for_each(|tool| self.mark_descriptions(tool)),
            }
        }
        let (text, places) = self.read(&stage.part_with(&messages, &tools, false)?)?;
        (text == whole).then_some(places)
    }

    /// `marked` without marks, and what stands between them; none where a mark lacks its other.
    pub fn read(&self, marked: &str) -> Option<(String, Vec<Place>)> {
        let mut text = String::with_capacity(marked.len());
        let (mut places, mut opened) = (Vec::new(), None);
        for c in marked.chars() {
            if c == self.close {
                let (owner, start) = opened.take()?;
                places.push(Place {
                    range: start..text.len(),
                    owner,
                });
            } else if let Some((owner, _)) =
                Some(c).filter(is_private).and_then(|_| self.owner_of(c))
            {
                if opened.replace((owner, text.len())).is_some() {
                    return None;
                }
            } else {
                text.push(c);
            }
        }
        opened.is_none().then_some((text, places))
    }

    fn owner_of(&self, c: char) -> Option<(Owner, char)> {
        // The characters ascend as they were given out.
        self.open
            .binary_search_by_key(&c, |(_, open)| *open)
            .ok()
            .map(|at| self.open[at])
    }

    /// Marks the texts of `message`.
    pub fn mark(&self, message: &mut Value, owner: Owner, depth: Depth) {
        let Some(open) = self
            .open
            .iter()
            .find(|(known, _)| *known == owner)
            .map(|(_, open)| *open)
        else {
            return;
        };
        Change {
            text: &|text| self.marked(open, text),
            number: &Clone::clone,
        }
        .message(message, depth);
    }

    /// Marks what the tools say in words.
    fn mark_descriptions(&self, tool: &mut Value) {
        let Some(open) = self.open.last().map(|(_, open)| *open) else {
            return;
        };
        Change {
            text: &|text| self.marked(open, text),
            number: &Clone::clone,
        }
        .descriptions(tool);
    }

    /// `text` with marks around what stands between its tokens in brackets and its white space: by
    /// these, templates take texts apart.
    fn marked(&self, open: char, text: &str) -> String {
        let pieces = pieces(text);
        let bare = pieces
            .iter()
            .all(|(piece, is_token)| *is_token || piece.trim().is_empty());
        let around = |(piece, is_token): &(&str, bool)| {
            let core = piece.trim();
            if core.is_empty() || (*is_token && !bare) {
                return (*piece).to_owned();
            }
            let start = piece.len() - piece.trim_start().len();
            format!(
                "{}{open}{core}{}{}",
                &piece[..start],
                self.close,
                &piece[start + core.len()..]
            )
        };
        pieces.iter().map(around).collect()
    }
}

fn is_private(c: &char) -> bool {
    *c >= '\u{F0000}'
}

fn collect_private(value: &Value, taken: &mut HashSet<char>) {
    match value {
        Value::String(text) => taken.extend(text.chars().filter(is_private)),
        Value::Array(items) => items.iter().for_each(|item| collect_private(item, taken)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            taken.extend(key.chars().filter(is_private));
            collect_private(value, taken);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
