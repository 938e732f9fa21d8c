//! Chat templates: the model's own Jinja, rendered as transformers renders it, with the assistant's text marked.
//!
//! Where a template has `{% generation %}` blocks, they say what is the assistant's. Where it has none, [`turns`] finds
//! each turn by rendering.
//!
//! Templates that write the date of today (`strftime_now`) are given a fixed one: training data that change with the
//! day cannot be repeated, and the model would be asked another question than the one that it was trained on.

mod compare;
mod cycler;
mod differ;
mod edges;
mod json;
mod listed;
mod markup;
mod methods;
mod named;
mod numbers;
mod ordered;
mod places;
mod printf;
mod python;
mod repr;
mod source;
mod stage;
mod texts;
mod turns;

use std::ops::Range;

use jiff::civil::Date;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::chat::Conversation;
use crate::message::is_trained_on;

pub use named::{Lacking, Templates};

use self::places::Owner;
use self::stage::{Marks, Stage};
use self::turns::Turns;

/// The ChatML template with tools that is used where a model's own has no place for them.
const CHATML_TOOLS: &str = include_str!("../../templates/chatml_tools.jinja");
/// What that one is called.
const BUILT_IN: &str = "chatml-tools";
/// The date that templates of Llama write where they are given none.
const DATE: Date = Date::constant(2024, 7, 26);

/// Steps of the template engine for one conversation: a thousand times what a long one takes. A template comes with a
/// model or a job, and one that does not end would hold the process for ever.
const FUEL: u64 = 20_000_000;

/// Texts of the special tokens that templates refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: String,
    pub eos: String,
}

/// A compiled template, or a model's set of them.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    variants: Vec<Variant>,
    special: SpecialTokens,
    date: Date,
    marks: Marks,
}

/// One template of the set.
#[derive(Debug)]
struct Variant {
    name: String,
    source: String,
    /// It has `{% generation %}` blocks.
    marked: bool,
}

/// A conversation as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of the assistant's text, tool calls and end of turn that are trained on, ascending.
    pub assistant: Vec<Range<usize>>,
    /// What the template leaves out of the answers that are trained on.
    pub lost: Vec<Lost>,
}

/// A part of an answer that the rendered text does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the chat template leaves out {what} of message {index}; set data.template: chatml-tools, or a template that writes it"
)]
pub struct Lost {
    pub index: usize,
    pub what: String,
}

/// Why a template cannot be used, or a conversation not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template does not compile: {0:#}")]
    Syntax(Error),
    #[error("the chat template refuses the conversation: {0:#}")]
    Refused(Error),
    #[error(
        "the chat template joins the arguments of a call to text, which they are not; set data.template: chatml-tools, or a copy of the template that writes `arguments | tojson`"
    )]
    TextArguments,
    #[error("the model has no chat template for a conversation without tools, only {}; give data.template", .0.join(", "))]
    NoDefault(Vec<String>),
    #[error(
        "message {index}: the chat template does not show which part of the text is this turn's; set data.template: chatml-tools, or a copy of the template with {{% generation %}} around what the assistant writes"
    )]
    Unclear { index: usize },
    #[error(
        "message {index}: the chat template writes text of {other} into this turn, which is not to be trained on; set data.template: chatml-tools, or a copy of the template with {{% generation %}} around what the assistant alone writes"
    )]
    Foreign { index: usize, other: String },
    #[error("`{0}` is no date; write one as 2024-07-26")]
    Date(String),
    #[error(
        "the chat template takes more than {FUEL} steps for one conversation: it does not end, or loops over too much"
    )]
    Endless,
}

impl TemplateError {
    /// A text of `owner` stands in turn `index`.
    fn foreign(index: usize, owner: Owner) -> Self {
        let other = match owner {
            Owner::Message(other) => format!("message {other}"),
            Owner::Tools => "the tools".into(),
        };
        Self::Foreign { index, other }
    }

    /// What rendering came to.
    fn rendering(fault: Error) -> Self {
        if fault.kind() == ErrorKind::OutOfFuel { Self::Endless } else { Self::Refused(fault) }
    }
}

impl ChatTemplate {
    /// `source` is Jinja text, or `chatml-tools` for the built-in template.
    ///
    /// # Errors
    /// It does not compile.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, TemplateError> {
        let source = if source == BUILT_IN { CHATML_TOOLS } else { source };
        Self::of(&Templates::from(source.to_owned()), special)
    }

    /// The template that `wanted` names (`auto`, `chatml-tools`, one of the model's, or Jinja text), where `own` are the
    /// model's.
    ///
    /// # Errors
    /// It does not compile, or the model has none.
    pub fn choose(wanted: &str, own: Option<&Templates>, special: &SpecialTokens) -> Result<Self, Lacking> {
        match (wanted, own) {
            ("auto", Some(own)) => Ok(Self::of(own, special.clone())?),
            ("auto", None) => Err(Lacking::None),
            (name, own) if name != BUILT_IN && !name.contains("{{") && !name.contains("{%") => {
                let own = own.filter(|own| !own.is_empty()).ok_or(Lacking::None)?;
                let lacking = || Lacking::Named { wanted: name.to_owned(), names: own.names() };
                Ok(Self::of(&own.one(name).ok_or_else(lacking)?, special.clone())?)
            }
            (source, _) => Ok(Self::new(source, special.clone())?),
        }
    }

    /// All templates of a model.
    ///
    /// # Errors
    /// One does not compile.
    pub fn of(templates: &Templates, special: SpecialTokens) -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        env.set_syntax(syntax.build().map_err(TemplateError::Syntax)?);
        python::install(&mut env);
        let marks = Marks::absent_from(templates.sources());
        let [open, close] = [marks.open, marks.close];
        env.add_filter(source::GENERATION, move |text: String| Value::from_safe_string(format!("{open}{text}{close}")));
        let mut variants = Vec::new();
        for (name, text) in templates.iter() {
            let (rewritten, marked) = source::rewrite(text);
            env.add_template_owned(name.to_owned(), rewritten).map_err(TemplateError::Syntax)?;
            variants.push(Variant { name: name.to_owned(), source: text.to_owned(), marked });
        }
        let mut template = Self { env, variants, special, date: DATE, marks };
        template.set_date(DATE);
        Ok(template)
    }

    /// The same with another date of today for templates that write one, as `2024-07-26`.
    ///
    /// # Errors
    /// It is no date.
    pub fn dated(mut self, date: &str) -> Result<Self, TemplateError> {
        self.set_date(date.parse().map_err(|_| TemplateError::Date(date.to_owned()))?);
        Ok(self)
    }

    fn set_date(&mut self, date: Date) {
        self.date = date;
        let now = date.at(0, 0, 0, 0);
        self.env.add_function("strftime_now", move |format: &str| {
            jiff::fmt::strtime::format(format, now)
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now(`{format}`): {e}")))
        });
    }

    /// The Jinja text for a conversation without tools, or the first where there is none of that name.
    pub fn source(&self) -> &str {
        let plain = self.variants.iter().find(|variant| variant.name == "default");
        plain.or(self.variants.first()).map_or("", |variant| &variant.source)
    }

    /// Everything that a rendered text follows from, besides the conversation.
    pub(crate) fn identity(&self) -> impl Iterator<Item = String> {
        let sources = self.variants.iter().flat_map(|variant| [variant.name.clone(), variant.source.clone()]);
        sources.chain([self.special.bos.clone(), self.special.eos.clone(), self.date.to_string()])
    }

    pub(crate) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// As transformers chooses: `tool_use` for a conversation with tools, else `default`.
    fn variant(&self, tools: bool) -> Result<&Variant, TemplateError> {
        let named = |name: &str| self.variants.iter().find(|variant| variant.name == name);
        let chosen = named("tool_use").filter(|_| tools).or_else(|| named("default"));
        chosen.ok_or_else(|| TemplateError::NoDefault(self.variants.iter().map(|v| format!("`{}`", v.name)).collect()))
    }

    /// Renders `conversation`, ready for the model to answer when `generation_prompt` is set.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn text(&self, conversation: &Conversation, generation_prompt: bool) -> Result<String, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, generation_prompt)?;
        Ok(stage.taken(&raw).text)
    }

    /// Renders `conversation` and tells which part is trained on.
    ///
    /// # Errors
    /// The template refuses the conversation, or does not show which part of the text is a turn's.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, false)?;
        let mut rendered = stage.taken(&raw);
        let answers = conversation.messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant");
        let turns = Turns::of(&stage, &rendered.text);
        let mut lost = Vec::new();
        if stage.variant.marked {
            let mut untrained = Vec::new();
            for (index, _) in answers.clone().filter(|(_, message)| !is_trained_on(message)) {
                untrained.extend(turns.turn(index)?);
            }
            rendered
                .assistant
                .retain(|piece| !untrained.iter().any(|turn| turn.start < piece.end && piece.start < turn.end));
            turns.only_the_assistants(&rendered.assistant)?;
        } else {
            for (index, _) in answers.clone().filter(|(_, message)| is_trained_on(message)) {
                match turns.find(index)? {
                    Some(turn) => rendered.assistant.push(turn),
                    None => lost.push(Lost { index, what: "the answer".into() }),
                }
            }
        }
        for (index, message) in answers.filter(|(_, message)| is_trained_on(message)) {
            if lost.iter().any(|lost| lost.index == index) {
                continue;
            }
            let what = lost_call(&rendered, message).or_else(|| lost_text(&rendered, message));
            let what = what.or_else(|| turns.is_lost(index, &rendered.assistant).then(|| "the text".into()));
            lost.extend(what.map(|what| Lost { index, what }));
        }
        rendered.lost = lost;
        Ok(Rendered { text: stage.shown(&rendered.text), ..rendered })
    }
}

fn is_held(rendered: &Rendered, text: &str) -> bool {
    rendered.assistant.iter().any(|piece| rendered.text[piece.clone()].contains(text))
}

/// A call of `message` whose name no trained piece holds.
fn lost_call(rendered: &Rendered, message: &serde_json::Value) -> Option<String> {
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let mut names = calls.filter_map(|call| call["function"]["name"].as_str());
    names.find(|name| !is_held(rendered, name)).map(|name| format!("the call of `{name}`"))
}

/// Whether no trained piece holds the last word of `message`: templates trim texts, take them apart and quote them.
fn lost_text(rendered: &Rendered, message: &serde_json::Value) -> Option<String> {
    let text = message["content"].as_str()?;
    let word = text.split(|c: char| !c.is_ascii_alphanumeric()).rfind(|word| !word.is_empty())?;
    (!is_held(rendered, word)).then(|| "the text".into())
}
