//! Checks that the trained part holds everything that an answer says: its text, and each call with
//! its arguments.
//!
//! Templates write the same text in several ways: trimmed, as JSON, as Python prints it, with
//! entities. A text that appears in none of these ways is refused by name. Reasoning is not
//! checked: many templates drop the reasoning of earlier turns.

use std::ops::Range;

use serde_json::{Map, Value};

use super::fault::{Loss, Lost};
use super::forms::{is_held_in, scalar_forms};
use super::owners::{Owner, overlap};
use super::reasoning::spoken;
use super::turns::Turns;

/// Characters of a text that a message quotes.
const QUOTED: usize = 24;

/// An answer and what is trained on of it.
pub(super) struct Answer<'a> {
    pub turns: &'a Turns<'a>,
    pub index: usize,
    pub pieces: &'a [Range<usize>],
    /// The pieces are blocks that the template marks.
    pub marked: bool,
}

impl Answer<'_> {
    fn message(&self) -> &Value {
        &self.turns.stage.messages[self.index]
    }

    /// What is trained on of this answer.
    fn trained(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| &self.turns.whole[piece.clone()])
            .collect()
    }

    /// The first part of the answer that is not trained on as it stands.
    pub fn lost(&self) -> Option<Lost> {
        let how = self
            .unheard()
            .or_else(|| self.lost_call())
            .or_else(|| self.lost_text());
        how.map(|how| Lost {
            index: self.index,
            how,
        })
    }

    /// No character of the answer is trained on, although another piece may hold the same text.
    fn unheard(&self) -> Option<Loss> {
        let places = self.turns.places();
        let owner = Owner::Message(self.index);
        let is_written = places.of(owner).next().is_some();
        // What the template looks up in a call may not be changed, and shows no place.
        let calls = self.message()["tool_calls"].is_array();
        let silent = !is_written && (calls || !places.is_exact(owner));
        if silent || self.is_heard() || !self.has_letters() {
            return None;
        }
        Some(if is_written {
            self.outside("the answer".into())
        } else {
            Loss::LeftOut("the answer".into())
        })
    }

    /// Whether a character of the answer is trained on.
    fn is_heard(&self) -> bool {
        let mut own = self.turns.places().of(Owner::Message(self.index));
        own.any(|range| self.pieces.iter().any(|piece| overlap(piece, range)))
    }

    fn has_letters(&self) -> bool {
        self.message()["content"]
            .as_str()
            .is_some_and(|text| text.contains(char::is_alphanumeric))
    }

    fn outside(&self, what: String) -> Loss {
        if self.marked {
            Loss::OutsideBlocks(what)
        } else {
            Loss::OutsideAnswer(what)
        }
    }

    /// What became of `text`, which is not trained on.
    fn missing(&self, what: String, text: &str) -> Loss {
        let mut own = self.turns.places().of(Owner::Message(self.index));
        let elsewhere =
            |range: &Range<usize>| !self.pieces.iter().any(|piece| overlap(piece, range));
        let is_written = !text.is_empty()
            && own.any(|range| elsewhere(range) && self.turns.whole[range.clone()].contains(text));
        if is_written {
            self.outside(what)
        } else {
            Loss::LeftOut(what)
        }
    }

    fn lost_text(&self) -> Option<Loss> {
        let text = self.message()["content"].as_str()?;
        let trained = self.trained();
        let said = spoken(text);
        if trained.contains(said) {
            return None;
        }
        let what = "the text".to_owned();
        Some(match self.changed(said, &trained) {
            Some((found, wanted)) => Loss::Changed {
                what,
                found,
                wanted,
            },
            None if self.message()["tool_calls"].is_array() && self.is_heard() => {
                Loss::Unlike(what)
            }
            None => self.missing(what, said),
        })
    }

    /// Where `trained` first differs from `said`, and what stands there; none where it holds hardly
    /// any of it.
    fn changed(&self, said: &str, trained: &str) -> Option<(String, String)> {
        let own = self.turns.places().of(Owner::Message(self.index));
        let first = own
            .filter(|range| self.pieces.iter().any(|piece| overlap(piece, range)))
            .map(|range| range.start)
            .min();
        let end = self.pieces.iter().map(|piece| piece.end).max()?;
        let agreed = |text: &str| {
            said.chars()
                .zip(text.chars())
                .take_while(|(a, b)| a == b)
                .count()
        };
        let starts = trained.char_indices().map(|(at, _)| &trained[at..]);
        let own = first.map(|at| &self.turns.whole[at.min(end)..end]);
        // Of those that agree alike, the answer's own place is the last.
        let (count, found) = starts
            .chain(own)
            .map(|text| (agreed(text), text))
            .max_by_key(|(count, _)| *count)?;
        let hardly = 2 * count < said.chars().count();
        if hardly && (first.is_none() || self.message()["tool_calls"].is_array()) {
            return None;
        }
        let quote = |text: &str| {
            text.chars()
                .skip(count.saturating_sub(QUOTED / 2))
                .take(QUOTED)
                .collect::<String>()
        };
        Some((quote(found), quote(said)))
    }

    fn lost_call(&self) -> Option<Loss> {
        let calls: Vec<&Value> = self.message()["tool_calls"].as_array()?.iter().collect();
        let trained = self.trained();
        for (place, call) in calls.iter().enumerate() {
            let name = call["function"]["name"].as_str().unwrap_or_default();
            if !is_held_in(&trained, name) {
                return Some(self.missing(format!("the call of `{name}`"), name));
            }
            let arguments = call["function"]["arguments"].as_object();
            let lost = arguments.and_then(|arguments| self.unprinted(place, arguments));
            let lost = lost.or_else(|| lost_argument(&trained, arguments?));
            if let Some((what, text)) = lost {
                return Some(self.missing(format!("{what} of the call of `{name}`"), &text));
            }
        }
        None
    }

    /// An argument of call `place` that the template does not write: its text stands there by
    /// chance.
    fn unprinted(&self, place: usize, arguments: &Map<String, Value>) -> Option<(String, String)> {
        let stage = self.turns.stage;
        // Plain letters, which no template writes otherwise.
        let mut free = (0..)
            .map(|number: usize| format!("zq{number}qz"))
            .filter(|word| !self.turns.whole.contains(word));
        let marks = arguments
            .keys()
            .map(|key| Some((key.as_str(), free.next()?, free.next()?)));
        let marks: Vec<(&str, String, String)> = marks.collect::<Option<_>>()?;
        let rendered = |named: bool| {
            let mut messages = stage.messages.clone();
            let argument = |(key, name, value): &(&str, String, String)| {
                (
                    if named {
                        (*key).to_owned()
                    } else {
                        name.clone()
                    },
                    Value::from(value.as_str()),
                )
            };
            let object = marks.iter().map(argument).collect();
            messages[self.index]["tool_calls"][place]["function"]["arguments"] =
                Value::Object(object);
            stage.part(&messages, false)
        };
        // Where the template needs other values than texts, this says nothing.
        let named = rendered(true)?;
        let silent = |(key, _, value): &&(&str, String, String)| {
            !is_empty(&arguments[*key]) && !named.contains(value)
        };
        if let Some((key, ..)) = marks.iter().find(silent) {
            let text = arguments[*key].as_str().unwrap_or_default();
            return Some((format!("the value of `{key}`"), text.to_owned()));
        }
        // A template that looks for the names that it knows writes none of these values.
        let renamed = rendered(false)?;
        let nameless = marks
            .iter()
            .find(|(_, name, value)| renamed.contains(value) && !renamed.contains(name));
        nameless.map(|(key, ..)| {
            (
                format!("the name of the argument `{key}`"),
                (*key).to_owned(),
            )
        })
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The first name or value of `arguments` that `trained` does not hold, and its text.
fn lost_argument(trained: &str, arguments: &Map<String, Value>) -> Option<(String, String)> {
    for (key, value) in arguments {
        if !is_held_in(trained, key) {
            return Some((format!("the name of the argument `{key}`"), key.clone()));
        }
        if let Some((path, text)) = lost_value(trained, value, key.clone()) {
            return Some((format!("the value of `{path}`"), text));
        }
    }
    None
}

/// Where the first text, number or name stands within `value`, at `path`, that `trained` does not
/// hold, and its text.
fn lost_value(trained: &str, value: &Value, path: String) -> Option<(String, String)> {
    match value {
        Value::String(text) => (!is_held_in(trained, text)).then(|| (path, text.clone())),
        Value::Array(items) => {
            let item = |(place, item): (usize, &Value)| {
                lost_value(trained, item, format!("{path}[{place}]"))
            };
            items.iter().enumerate().find_map(item)
        }
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            let inner = format!("{path}.{key}");
            if is_held_in(trained, key) {
                lost_value(trained, value, inner)
            } else {
                Some((inner, key.clone()))
            }
        }),
        scalar => {
            let is_held = scalar_forms(scalar)
                .iter()
                .any(|form| trained.contains(form));
            (!is_held).then(|| (path, scalar.to_string()))
        }
    }
}
