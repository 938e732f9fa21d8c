//! Chat templates: the model's own Jinja, rendered as transformers renders it, with the assistant's text marked.
//!
//! Where a template has `{% generation %}` blocks, they say what is the assistant's. Where it has none, `turns.rs`
//! finds each turn by rendering.
//! `strftime_now` is left undefined on purpose: a date of today in training data would change every run, and
//! templates that ask for it fall back to a fixed one.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::chat::Conversation;
use crate::json::dumps;

/// The ChatML template with tools that is used where a model's own has no place for them.
const CHATML_TOOLS: &str = include_str!("../templates/chatml_tools.jinja");

// Two characters of a private plane mark the generation blocks inside rendered text.
const OPEN: char = '\u{F0001}';
const CLOSE: char = '\u{F0002}';

/// Texts of the special tokens that templates refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: String,
    pub eos: String,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    special: SpecialTokens,
    marks_generation: bool,
}

/// A conversation as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of the assistant's text, tool calls and end of turn, ascending.
    pub assistant: Vec<Range<usize>>,
}

/// Why a template cannot be used, or a conversation not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template does not compile: {0:#}")]
    Syntax(Error),
    #[error("the chat template refuses the conversation: {0:#}")]
    Refused(Error),
    #[error(
        "message {index}: the template does not show which part of the text is this turn's; add {{% generation %}} to the template"
    )]
    Unclear { index: usize },
}

impl ChatTemplate {
    /// `source` is Jinja text, or `chatml-tools` for the built-in template.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, TemplateError> {
        let source = if source == "chatml-tools" { CHATML_TOOLS } else { source };
        let marked = mark_generation(source);
        let marks_generation = marked != source;
        let mut env = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        env.set_syntax(syntax.build().map_err(TemplateError::Syntax)?);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", tojson);
        env.add_filter("_generation", |text: String| Value::from_safe_string(format!("{OPEN}{text}{CLOSE}")));
        env.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_template_owned("chat", marked).map_err(TemplateError::Syntax)?;
        Ok(Self { env, source: source.to_owned(), special, marks_generation })
    }

    /// The Jinja text.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Renders `conversation`, ready for the model to answer when `generation_prompt` is set.
    pub fn text(&self, conversation: &Conversation, generation_prompt: bool) -> Result<String, TemplateError> {
        Ok(take_marks(&self.raw(&conversation.messages, &conversation.tools, generation_prompt)?).text)
    }

    /// Renders `conversation` and tells which part is the assistant's.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let raw = self.raw(&conversation.messages, &conversation.tools, false)?;
        if self.marks_generation {
            return Ok(take_marks(&raw));
        }
        let mut assistant = Vec::new();
        for (index, message) in conversation.messages.iter().enumerate() {
            if message["role"] == "assistant" {
                assistant.push(self.turn(conversation, index, &raw)?);
            }
        }
        Ok(Rendered { text: raw, assistant })
    }

    pub(crate) fn raw(
        &self,
        messages: &[serde_json::Value],
        tools: &[serde_json::Value],
        prompt: bool,
    ) -> Result<String, TemplateError> {
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let template = self.env.get_template("chat").map_err(TemplateError::Refused)?;
        template
            .render(context! {
                messages => Value::from(Serde(messages)),
                tools,
                add_generation_prompt => prompt,
                bos_token => self.special.bos.as_str(),
                eos_token => self.special.eos.as_str(),
            })
            .map_err(TemplateError::Refused)
    }
}

/// `{% generation %}` is no tag of minijinja; a filter block does the same and keeps the rules of white space.
fn mark_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let name = tag.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match name {
            "generation" => out.push_str(&format!("{{%{}%}}", tag.replace("generation", "filter _generation"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", tag.replace("endgeneration", "endfilter"))),
            _ => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

fn take_marks(raw: &str) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(raw.len()), assistant: Vec::new() };
    let mut start = 0;
    for c in raw.chars() {
        match c {
            OPEN => start = rendered.text.len(),
            CLOSE if rendered.text.len() > start => rendered.assistant.push(start..rendered.text.len()),
            CLOSE => {}
            c => rendered.text.push(c),
        }
    }
    rendered
}

fn tojson(value: Serde<serde_json::Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    Ok(Value::from_safe_string(dumps(&value, indent)))
}
