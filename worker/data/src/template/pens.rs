//! Marks around the texts of messages and tools. The first mark names the owner of a text, so the
//! rendered marks show where each text stands. `places.rs` decides which texts are marked together,
//! and what is done where marks change the rendering.

use std::collections::HashSet;

use serde_json::Value;

use super::differ::pieces;
use super::fields::{Change, Depth};
use super::marks::{is_private, private};
use super::owners::{Owner, Place};
use super::stage::Stage;

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
    pub fn traced(
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
