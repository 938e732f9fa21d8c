//! A conversation prepared for rendering: without what templates must not see, and with what they
//! insist on.

use std::ops::Range;

use minijinja::value::Serde;
use minijinja::{Error, ErrorKind, Value, context};
use serde_json::{Map, Value as Json};

use super::compiled::{ChatTemplate, FUEL, Variant};
use super::fault::TemplateError;
use super::made_ids::with_made_ids;
use super::marks::{Marks, private};
use super::refusals::of_calls;
use crate::chat::Conversation;

/// What a template is given.
pub(super) struct Stage<'t> {
    pub template: &'t ChatTemplate,
    pub variant: &'t Variant,
    pub messages: Vec<Json>,
    pub tools: Vec<Json>,
    /// A mark that the data hold, and what stands for it while rendering.
    swaps: Vec<(char, char)>,
}

/// A rendered text without the marks of generation blocks.
pub(super) struct Unmarked {
    pub text: String,
    /// Byte ranges of the blocks, ascending.
    pub blocks: Vec<Range<usize>>,
}

impl<'t> Stage<'t> {
    /// Prepares `conversation` and renders it.
    ///
    /// A template that refuses calls without ids, as Mistral's do, is given made-up ones, the same
    /// in every run.
    pub fn set(
        template: &'t ChatTemplate,
        conversation: &Conversation,
        prompt: bool,
    ) -> Result<(Self, String), TemplateError> {
        let (mut messages, mut tools) = (conversation.messages.clone(), conversation.tools.clone());
        for message in messages.iter_mut().filter_map(Json::as_object_mut) {
            message.shift_remove("weight");
            with_names_of_reasoning(message);
        }
        let swaps = swaps(template.marks, &messages, &tools);
        for value in messages
            .iter_mut()
            .chain(&mut tools)
            .filter(|_| !swaps.is_empty())
        {
            swap(value, &swaps);
        }
        let variant = template.variant(!tools.is_empty())?;
        let mut stage = Self {
            template,
            variant,
            messages,
            tools,
            swaps,
        };
        let refused = match stage.raw(&stage.messages, prompt) {
            Ok(raw) => return Ok((stage, raw)),
            Err(e) => e,
        };
        if !stage
            .messages
            .iter()
            .any(|message| message["tool_calls"].is_array())
        {
            return Err(refused);
        }
        let plain = std::mem::take(&mut stage.messages);
        stage.messages = with_made_ids(&plain);
        if let Ok(raw) = stage.raw(&stage.messages, prompt) {
            return Ok((stage, raw));
        }
        let takes = |messages: &[Json]| stage.raw(messages, prompt).is_ok();
        Err(of_calls(refused, &plain, &stage.messages, &takes))
    }

    /// `messages` as the template renders them, marks included.
    fn raw(&self, messages: &[Json], prompt: bool) -> Result<String, TemplateError> {
        self.raw_with(messages, &self.tools, prompt)
    }

    fn raw_with(
        &self,
        messages: &[Json],
        tools: &[Json],
        prompt: bool,
    ) -> Result<String, TemplateError> {
        let tools = if tools.is_empty() {
            Value::from(())
        } else {
            Value::from(Serde(tools))
        };
        let template = self
            .template
            .env
            .get_template(&self.variant.name)
            .map_err(TemplateError::Refused)?;
        template
            .render(context! {
                messages => Value::from(Serde(messages)),
                tools,
                documents => Value::from(()),
                add_generation_prompt => prompt,
                bos_token => self.template.special.bos.as_str(),
                eos_token => self.template.special.eos.as_str(),
            })
            .map_err(refusal)
    }

    /// `messages` as the template renders them; none where it refuses them, as a part of a
    /// conversation may be.
    pub fn part(&self, messages: &[Json], prompt: bool) -> Option<String> {
        self.part_with(messages, &self.tools, prompt)
    }

    /// The same with other tools.
    pub fn part_with(&self, messages: &[Json], tools: &[Json], prompt: bool) -> Option<String> {
        self.raw_with(messages, tools, prompt)
            .ok()
            .map(|raw| self.taken(&raw).text)
    }

    /// Takes the marks of generation blocks out of `raw`.
    pub fn taken(&self, raw: &str) -> Unmarked {
        let marks = self.template.marks;
        let mut rendered = Unmarked {
            text: String::with_capacity(raw.len()),
            blocks: Vec::new(),
        };
        let mut start = 0;
        for c in raw.chars() {
            if c == marks.open {
                start = rendered.text.len();
            } else if c == marks.close {
                rendered
                    .blocks
                    .extend(Some(start..rendered.text.len()).filter(|piece| !piece.is_empty()));
            } else {
                rendered.text.push(c);
            }
        }
        rendered
    }

    /// `text` with the data's own characters.
    pub fn shown(&self, text: &str) -> String {
        if self.swaps.is_empty() {
            return text.to_owned();
        }
        let original = |c| {
            self.swaps
                .iter()
                .find(|(_, other)| *other == c)
                .map_or(c, |(mark, _)| *mark)
        };
        text.chars().map(original).collect()
    }
}

/// Why a template does not render.
fn refusal(fault: Error) -> TemplateError {
    if fault.kind() == ErrorKind::OutOfFuel {
        TemplateError::Endless { steps: FUEL }
    } else {
        TemplateError::Refused(fault)
    }
}

/// Templates read reasoning under one of two names; transformers fills both.
fn with_names_of_reasoning(message: &mut Map<String, Json>) {
    let names = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = names
        .iter()
        .filter_map(|name| message.get(*name))
        .find(|text| !text.is_null())
        .cloned()
    else {
        return;
    };
    message
        .entry("thinking")
        .or_insert_with(|| reasoning.clone());
    message.insert("reasoning_content".into(), reasoning);
}

/// For each mark that the data hold a character of the same plane that they do not hold: it has as
/// many bytes.
fn swaps(marks: Marks, messages: &[Json], tools: &[Json]) -> Vec<(char, char)> {
    let values = || messages.iter().chain(tools);
    let held: Vec<char> = marks
        .all()
        .into_iter()
        .filter(|c| values().any(|value| holds(value, *c)))
        .collect();
    if held.is_empty() {
        return Vec::new();
    }
    let free =
        private().filter(|c| !marks.all().contains(c) && !values().any(|value| holds(value, *c)));
    held.into_iter().zip(free).collect()
}

fn holds(value: &Json, c: char) -> bool {
    match value {
        Json::String(text) => text.contains(c),
        Json::Array(items) => items.iter().any(|item| holds(item, c)),
        Json::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains(c) || holds(value, c)),
        _ => false,
    }
}

fn swap(value: &mut Json, swaps: &[(char, char)]) {
    let swapped = |text: &str| -> String {
        text.chars()
            .map(|c| {
                swaps
                    .iter()
                    .find(|(mark, _)| *mark == c)
                    .map_or(c, |(_, other)| *other)
            })
            .collect()
    };
    match value {
        Json::String(text) => *text = swapped(text),
        Json::Array(items) => items.iter_mut().for_each(|item| swap(item, swaps)),
        Json::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                swap(&mut value, swaps);
                map.insert(swapped(&key), value);
            }
        }
        _ => {}
    }
}
