//! Where the texts of each message stand in a rendered conversation.
//!
//! The conversation is rendered again with every text between two marks, of which the first names the message. Where the
//! two renderings are the same but for the marks, the marks say whose each character is, however often the template
//! writes a text and however it changes it. A template that looks at a text, or cuts it, may render otherwise with marks:
//! then the messages are marked one by one, and what still differs is known by where the text changes with the message.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value};

use super::differ::bracketed;
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

/// How much of an assistant's message is marked: templates look names up, and choose by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Whole,
    WithoutNames,
    WithoutCalls,
}

const DEPTHS: [Depth; 3] = [Depth::Whole, Depth::WithoutNames, Depth::WithoutCalls];

/// The places of all texts of the whole conversation, in order.
pub(super) fn places(turns: &Turns<'_>) -> Vec<Place> {
    let (stage, whole) = (turns.stage, turns.whole);
    let messages = (0..stage.messages.len()).map(Owner::Message);
    let owners: Vec<Owner> = messages.chain((!stage.tools.is_empty()).then_some(Owner::Tools)).collect();
    let pens = Pens::of(stage, &owners);
    let traced = |owners: &[Owner], depth| pens.as_ref()?.traced(stage, whole, owners, depth);
    if let Some(found) = traced(&owners, Depth::Whole) {
        return found;
    }
    let one = |&owner: &Owner| {
        let exact = DEPTHS.into_iter().find_map(|depth| traced(&[owner], depth));
        let rough = |index| turns.replaced(index).map(|(range, _)| Place { range, owner });
        exact.unwrap_or_else(|| match owner {
            Owner::Message(index) => rough(index).into_iter().collect(),
            Owner::Tools => Vec::new(),
        })
    };
    let mut found: Vec<Place> = owners.iter().flat_map(one).collect();
    found.sort_by_key(|place| place.range.start);
    found
}

/// The characters that mark texts: one that opens for each owner, and one that closes.
pub(super) struct Pens {
    open: Vec<(Owner, char)>,
    close: char,
}

impl Pens {
    /// None where there are more owners than characters that the conversation and the templates do not hold.
    pub fn of(stage: &Stage<'_>, owners: &[Owner]) -> Option<Self> {
        let mut taken: HashSet<char> = stage.template.marks.all().into_iter().collect();
        stage.messages.iter().chain(&stage.tools).for_each(|value| collect_private(value, &mut taken));
        taken.extend(stage.template.variants.iter().flat_map(|variant| variant.source.chars()).filter(is_private));
        let mut free = private().filter(|c| !taken.contains(c));
        let close = free.next()?;
        let open: Vec<(Owner, char)> = owners.iter().copied().zip(free).collect();
        (open.len() == owners.len()).then_some(Self { open, close })
    }

    /// The places of `owners` in `whole`; none where it is rendered otherwise with their marks.
    fn traced(&self, stage: &Stage<'_>, whole: &str, owners: &[Owner], depth: Depth) -> Option<Vec<Place>> {
        let (mut messages, mut tools) = (stage.messages.clone(), stage.tools.clone());
        for owner in owners {
            match *owner {
                Owner::Message(index) => self.mark(&mut messages[index], *owner, depth),
                Owner::Tools => tools.iter_mut().for_each(|tool| self.mark_descriptions(tool)),
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
                places.push(Place { range: start..text.len(), owner });
            } else if let Some((owner, _)) = Some(c).filter(is_private).and_then(|_| self.owner_of(c)) {
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
        self.open.binary_search_by_key(&c, |(_, open)| *open).ok().map(|at| self.open[at])
    }

    /// Marks the texts of `message`.
    pub fn mark(&self, message: &mut Value, owner: Owner, depth: Depth) {
        let Some(open) = self.open.iter().find(|(known, _)| *known == owner).map(|(_, open)| *open) else { return };
        for name in ["content", "reasoning_content", "thinking"] {
            if let Some(Value::String(text)) = message.get_mut(name) {
                *text = self.marked(open, text);
            }
        }
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
        for call in calls.filter(|_| depth != Depth::WithoutCalls) {
            let Some(function) = call.get_mut("function") else { continue };
            if let (Some(Value::String(name)), Depth::Whole) = (function.get_mut("name"), depth) {
                *name = self.marked(open, name);
            }
            if let Some(arguments) = function.get_mut("arguments") {
                self.mark_all(arguments, open);
            }
        }
    }

    fn mark_all(&self, value: &mut Value, open: char) {
        match value {
            Value::String(text) => *text = self.marked(open, text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark_all(item, open)),
            Value::Object(map) => {
                for (key, mut value) in std::mem::take(map) {
                    self.mark_all(&mut value, open);
                    map.insert(self.marked(open, &key), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Marks what the tools say in words; by their names, templates look them up.
    fn mark_descriptions(&self, value: &mut Value) {
        let Some(open) = self.open.last().map(|(_, open)| *open) else { return };
        let described = |map: &mut Map<String, Value>| {
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = self.marked(open, text);
            }
        };
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark_descriptions(item)),
            Value::Object(map) => {
                described(map);
                map.values_mut().for_each(|value| self.mark_descriptions(value));
            }
            _ => {}
        }
    }

    /// `text` with marks around what stands between its tokens in brackets and its white space: by these, templates
    /// take texts apart.
    fn marked(&self, open: char, text: &str) -> String {
        let pieces = pieces(text);
        let bare = pieces.iter().all(|(piece, is_token)| *is_token || piece.trim().is_empty());
        let around = |(piece, is_token): &(&str, bool)| {
            let core = piece.trim();
            if core.is_empty() || (*is_token && !bare) {
                return (*piece).to_owned();
            }
            let start = piece.len() - piece.trim_start().len();
            format!("{}{open}{core}{}{}", &piece[..start], self.close, &piece[start + core.len()..])
        };
        pieces.iter().map(around).collect()
    }
}

/// The tokens in brackets of `text` and what stands between them; whether a piece is a token.
fn pieces(text: &str) -> Vec<(&str, bool)> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = text[at..].find(['<', '[']) {
        at += found;
        match bracketed(&text[at..]) {
            Some(length) => {
                pieces.extend([(&text[start..at], false), (&text[at..at + length], true)]);
                at += length;
                start = at;
            }
            None => at += 1,
        }
    }
    pieces.push((&text[start..], false));
    pieces
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
