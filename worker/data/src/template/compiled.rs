//! A chat template, or a model's set of them, compiled: which one a name stands for, which of the
//! set a conversation takes, and what they are given besides. This module renders nothing.

use jiff::civil::Date;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::fault::TemplateError;
use super::marks::Marks;
use super::named::{Lacking, Templates};
use super::{python, source};

/// The ChatML template with tools that is used where a model's own has no place for them.
const CHATML_TOOLS: &str = include_str!("../../templates/chatml_tools.jinja");
/// What that one is called.
const BUILT_IN: &str = "chatml-tools";
/// The date that templates of Llama write where they are given none.
const DATE: Date = Date::constant(2024, 7, 26);

/// Steps of the template engine for one conversation: a thousand times what a long one takes. A
/// template comes with a model or a job, and one that does not end would hold the process forever.
pub(super) const FUEL: u64 = 20_000_000;

/// Texts of the special tokens that templates refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: String,
    pub eos: String,
}

/// A compiled template, or a model's set of them.
#[derive(Debug)]
pub struct ChatTemplate {
    pub(super) env: Environment<'static>,
    pub(super) variants: Vec<Variant>,
    pub(super) special: SpecialTokens,
    date: Date,
    pub(super) marks: Marks,
}

/// One template of the set.
#[derive(Debug)]
pub(super) struct Variant {
    pub name: String,
    pub source: String,
    /// It has `{% generation %}` blocks.
    pub marked: bool,
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
    pub(super) fn variant(&self, tools: bool) -> Result<&Variant, TemplateError> {
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
}
