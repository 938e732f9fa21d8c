//! Chat templates: the model's own Jinja, rendered as transformers renders it, with the assistant's
//! text marked.
//!
//! Where a template has `{% generation %}` blocks, they say what is the assistant's. Where it has
//! none, [`turns`] finds each turn by rendering.
//!
//! Templates that write the date of today (`strftime_now`) are given a fixed one: training data
//! that change with the day cannot be repeated, and the model would be asked another question than
//! the one that it was trained on.

mod answers;
mod comparable;
mod compare;
mod cycler;
mod differ;
mod edges;
mod fault;
mod fields;
mod forms;
mod given;
mod held;
mod json;
mod letters;
mod markup;
mod methods;
mod named;
mod numbers;
mod objects;
mod ordered;
mod places;
mod printf;
mod python;
mod range;
mod reasoning;
mod repr;
mod source;
mod stage;
mod stand_in;
mod texts;
mod turns;
mod walk;

use std::ops::Range;

use jiff::civil::Date;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::chat::Conversation;
use crate::message::is_trained_on;

pub use fault::{Loss, Lost, TemplateError};
pub use named::{Lacking, Templates};

use self::answers::overlap;
use self::held::Answer;
use self::stage::{Marks, Stage};
use self::turns::Turns;

/// The ChatML template with tools that is used where a model's own has no place for them.
const CHATML_TOOLS: &str = include_str!("../../templates/chatml_tools.jinja");
/// What that one is called.
const BUILT_IN: &str = "chatml-tools";
/// The date that templates of Llama write where they are given none.
const DATE: Date = Date::constant(2024, 7, 26);

/// Steps of the template engine for one conversation: a thousand times what a long one takes. A
/// template comes with a model or a job, and one that does not end would hold the process for ever.
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
    /// Byte ranges of the assistant's text, tool calls and end of turn that are trained on,
    /// ascending.
    pub assistant: Vec<Range<usize>>,
    /// What of the answers that are trained on is not among that text.
    pub lost: Vec<Lost>,
}

impl ChatTemplate {
    /// `source` is Jinja text, or `chatml-tools` for the built-in template.
    ///
    /// # Errors
    /// It does not compile.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self, TemplateError> {
        let source = if source == BUILT_IN {
            CHATML_TOOLS
        } else {
            source
        };
        Self::of(&Templates::from(source.to_owned()), special)
    }

    /// The template that `wanted` names (`auto`, `chatml-tools`, one of the model's, or Jinja
    /// text), where `own` are the model's.
    ///
    /// # Errors
    /// It does not compile, or the model has none.
    pub fn choose(
        wanted: &str,
        own: Option<&Templates>,
        special: &SpecialTokens,
    ) -> Result<Self, Lacking> {
        match (wanted, own) {
            ("auto", Some(own)) => Ok(Self::of(own, special.clone())?),
            ("auto", None) => Err(Lacking::None),
            (name, own) if name != BUILT_IN && !name.contains("{{") && !name.contains("{%") => {
                let own = own.filter(|own| !own.is_empty()).ok_or(Lacking::None)?;
                let lacking = || Lacking::Named {
                    wanted: name.to_owned(),
                    names: own.names(),
                };
                Ok(Self::of(
                    &own.one(name).ok_or_else(lacking)?,
                    special.clone(),
                )?)
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
        env.add_filter(source::GENERATION, move |text: String| {
            Value::from_safe_string(format!("{open}{text}{close}"))
        });
        let mut variants = Vec::new();
        for (name, text) in templates.iter() {
            let (rewritten, marked) = source::rewrite(text);
            env.add_template_owned(name.to_owned(), rewritten)
                .map_err(TemplateError::Syntax)?;
            variants.push(Variant {
                name: name.to_owned(),
                source: text.to_owned(),
                marked,
            });
        }
        let mut template = Self {
            env,
            variants,
            special,
            date: DATE,
            marks,
        };
        template.set_date(DATE);
        Ok(template)
    }

    /// The same with another date of today for templates that write one, as `2024-07-26`.
    ///
    /// # Errors
    /// It is no date.
    pub fn dated(mut self, date: &str) -> Result<Self, TemplateError> {
        self.set_date(
            date.parse()
                .map_err(|_| TemplateError::Date(date.to_owned()))?,
        );
        Ok(self)
    }

    fn set_date(&mut self, date: Date) {
        self.date = date;
        let now = date.at(0, 0, 0, 0);
        self.env.add_function("strftime_now", move |format: &str| {
            jiff::fmt::strtime::format(format, now).map_err(|e| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now(`{format}`): {e}"),
                )
            })
        });
    }

    /// The Jinja text for a conversation without tools, or the first where there is none of that
    /// name.
    pub fn source(&self) -> &str {
        let plain = self
            .variants
            .iter()
            .find(|variant| variant.name == "default");
        plain
            .or(self.variants.first())
            .map_or("", |variant| &variant.source)
    }

    /// Everything that a rendered text follows from, besides the conversation.
    pub(crate) fn identity(&self) -> impl Iterator<Item = String> {
        let sources = self
            .variants
            .iter()
            .flat_map(|variant| [variant.name.clone(), variant.source.clone()]);
        sources.chain([
            self.special.bos.clone(),
            self.special.eos.clone(),
            self.date.to_string(),
        ])
    }

    pub(crate) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// As transformers chooses: `tool_use` for a conversation with tools, else `default`.
    fn variant(&self, tools: bool) -> Result<&Variant, TemplateError> {
        let named = |name: &str| self.variants.iter().find(|variant| variant.name == name);
        let chosen = named("tool_use")
            .filter(|_| tools)
            .or_else(|| named("default"));
        chosen.ok_or_else(|| {
            TemplateError::NoDefault(
                self.variants
                    .iter()
                    .map(|v| format!("`{}`", v.name))
                    .collect(),
            )
        })
    }

    /// Renders `conversation`, ready for the model to answer when `generation_prompt` is set.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn text(
        &self,
        conversation: &Conversation,
        generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, generation_prompt)?;
        Ok(stage.taken(&raw).text)
    }

    /// Renders `conversation` and tells which part is trained on.
    ///
    /// # Errors
    /// The template refuses the conversation, does not show which part of the text is a turn's, or
    /// mixes others' text into it.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let (stage, raw) = Stage::set(self, conversation, false)?;
        let mut rendered = stage.taken(&raw);
        let messages = conversation
            .messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message["role"] == "assistant");
        let (trained, untrained): (Vec<_>, Vec<_>) =
            messages.partition(|(_, message)| is_trained_on(message));
        let trained: Vec<usize> = trained.into_iter().map(|(index, _)| index).collect();
        let turns = Turns::of(&stage, &rendered.text);
        let marked = stage.variant.marked;
        let answers = if marked {
            let mut shown = Vec::new();
            for (index, _) in untrained {
                shown.extend(turns.turn(index)?);
            }
            rendered
                .assistant
                .retain(|block| !shown.iter().any(|turn| overlap(turn, block)));
            turns.marked(&rendered.assistant, &trained)?
        } else {
            turns.found(&trained)?
        };
        let mut whole = Vec::new();
        for answer in &answers {
            turns.in_order(answer)?;
            match (Answer {
                turns: &turns,
                index: answer.index,
                pieces: &answer.ranges,
                marked,
            })
            .lost()
            {
                Some(lost) => rendered.lost.push(lost),
                None => whole.push(answer),
            }
        }
        turns.independent(&whole)?;
        if !marked {
            whole
                .into_iter()
                .try_for_each(|answer| turns.ends_itself(answer))?;
            rendered.assistant = answers
                .into_iter()
                .flat_map(|answer| answer.ranges)
                .collect();
        }
        Ok(Rendered {
            text: stage.shown(&rendered.text),
            ..rendered
        })
    }
}
