//! What of a row, besides the answers that are trained on, the template does not write: messages,
//! tools, and fields that stand beside the text of a message.
//!
//! A message is left out where no character of the rendered text is its own, and the text stays the
//! same when the message says something else, or nothing. One that the template only acts upon, such as
//! `/no_think`, is heard. The tools are known by their names and by what they say in words.

use serde_json::Value;

use super::fault::{Unwritten, WayOut};
use super::fields::Change;
use super::owners::Owner;
use super::reasoning::spoken;
use super::stage::Stage;
use super::stand_in::{Calls, stand_in};
use super::turns::Turns;

/// Fields that templates may write beside the text of a message, with the names that each has.
const FIELDS: [(&str, &[&str]); 2] = [
    (
        "reasoning_content",
        &["reasoning_content", "thinking", "reasoning"],
    ),
    ("name", &["name"]),
];

/// What the template leaves out of the messages, but for the answers `trained`, and of the tools.
pub(super) fn unwritten(turns: &Turns<'_>, trained: &[usize]) -> Vec<Unwritten> {
    let stage = turns.stage;
    let is_prompt = |index: &usize| trained.binary_search(index).is_err();
    let left_out = (0..stage.messages.len())
        .filter(is_prompt)
        .filter(|index| says_something(&stage.messages[*index]) && is_left_out(turns, *index));
    let mut found: Vec<Unwritten> = left_out
        .map(|index| Unwritten::Message {
            index,
            role: role(&stage.messages[index]).to_owned(),
            way_out: way_out(stage, index),
        })
        .collect();
    // Their places cost nothing more: those of the messages came with them.
    let writes_some = || {
        turns.places().of(Owner::Tools).next().is_some() || writes_tools(stage, turns.whole, false)
    };
    if !stage.tools.is_empty() && !writes_some() {
        found.push(Unwritten::Tools);
    }
    found
}

fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or_default()
}

/// What to do about message `index`, of which the template writes nothing.
fn way_out(stage: &Stage<'_>, index: usize) -> WayOut {
    if !["system", "developer"].contains(&role(&stage.messages[index])) {
        return WayOut::LeaveOut;
    }
    let mut messages = stage.messages.clone();
    messages[index]["role"] = "system".into();
    if writes(stage, &messages, index, false) {
        return WayOut::System;
    }
    // As the model is asked: some templates write it in front of the last question alone.
    let answer = messages.iter().position(|m| role(m) == "assistant");
    let asked = answer.filter(|answer| index < *answer);
    match asked.map(|answer| &stage.messages[..answer]) {
        Some(asked) if writes(stage, asked, index, true) => WayOut::Question,
        _ => WayOut::LeaveOut,
    }
}

/// Whether the rendered `messages` change with the text of message `index`.
fn writes(stage: &Stage<'_>, messages: &[Value], index: usize, prompt: bool) -> bool {
    let mut others = messages.to_vec();
    others[index] = stand_in(
        &messages[index],
        stage.template.marks.stand_in,
        Calls::Whole,
    );
    let rendered = |messages: &[Value]| stage.part(messages, prompt);
    matches!((rendered(messages), rendered(&others)), (Some(own), Some(other)) if own != other)
}

fn says_something(message: &Value) -> bool {
    let text = message["content"].as_str().unwrap_or_default();
    // Many templates leave out the reasoning of earlier answers on purpose.
    let said = if message["role"] == "assistant" {
        spoken(text)
    } else {
        text.trim()
    };
    !said.is_empty() || message["tool_calls"].is_array()
}

fn is_left_out(turns: &Turns<'_>, index: usize) -> bool {
    let (stage, owner) = (turns.stage, Owner::Message(index));
    if turns.places().of(owner).next().is_some() {
        return false;
    }
    let rendered = |message: Value| {
        let mut messages = stage.messages.clone();
        messages[index] = message;
        stage.part(&messages, false)
    };
    let own = &stage.messages[index];
    // A template may cut away all of this text, and write another one.
    if own["content"].as_str().is_some_and(|text| !text.is_empty()) {
        let mut silent = own.clone();
        silent["content"] = "".into();
        if rendered(silent).is_some_and(|other| other == turns.whole) {
            return true;
        }
    }
    match rendered(stand_in(own, stage.template.marks.stand_in, Calls::Whole)) {
        Some(other) => other == turns.whole,
        // A template that looks calls up refuses others, and shows no place of one without arguments.
        None => turns.places().is_exact(owner) && !own["tool_calls"].is_array(),
    }
}

/// Whether `text`, which `stage` is rendered as, changes with the names of the tools and with what
/// they say in words.
pub(super) fn writes_tools(stage: &Stage<'_>, text: &str, prompt: bool) -> bool {
    let mark = stage.template.marks.stand_in.to_string();
    let mut tools = stage.tools.clone();
    for tool in &mut tools {
        Change {
            text: &|_: &str| mark.clone(),
            number: &Clone::clone,
        }
        .descriptions(tool);
        let is_wrapped = tool.get("function").is_some_and(Value::is_object);
        let function = if is_wrapped {
            tool.get_mut("function")
        } else {
            Some(tool)
        };
        if let Some(function) = function.and_then(Value::as_object_mut) {
            function.insert("name".into(), mark.as_str().into());
        }
    }
    // A template that refuses other names reads them.
    stage
        .part_with(&stage.messages, &tools, prompt)
        .is_none_or(|other| other != text)
}

/// The fields that messages of `stage`, which is rendered as `whole`, have and of which the template
/// writes nothing. Results are left aside: the `name` of one repeats that of its call.
pub(super) fn unwritten_fields(stage: &Stage<'_>, whole: &str) -> Vec<&'static str> {
    let mark = stage.template.marks.stand_in.to_string();
    let is_unwritten = |names: &[&str]| {
        let (mut messages, mut is_there) = (stage.messages.clone(), false);
        for message in &mut messages {
            if message["role"] == "tool" {
                continue;
            }
            for name in names {
                if let Some(Value::String(text)) = message.get_mut(*name)
                    && !text.trim().is_empty()
                {
                    text.clone_from(&mark);
                    is_there = true;
                }
            }
        }
        is_there
            && stage
                .part(&messages, false)
                .is_some_and(|other| other == whole)
    };
    FIELDS
        .into_iter()
        .filter(|field| is_unwritten(field.1))
        .map(|(field, _)| field)
        .collect()
}
