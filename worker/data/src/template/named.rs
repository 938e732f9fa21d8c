//! Which templates a model has: one, or several under names.

use serde_json::Value;

use super::fault::TemplateError;

const DEFAULT: &str = "default";

/// The templates of a model, the one without a name as `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Templates(Vec<(String, String)>);

/// Why a model's template cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Lacking {
    #[error("it has no chat template")]
    None,
    #[error("it has no chat template `{wanted}`, only {names}")]
    Named { wanted: String, names: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl From<String> for Templates {
    fn from(source: String) -> Self {
        Self(vec![(DEFAULT.into(), source)])
    }
}

impl Templates {
    /// What `chat_template` of a settings file holds: a text, a list of names with texts, or an
    /// object of them.
    ///
    /// # Errors
    /// It is something else; the text says so.
    pub fn from_setting(setting: &Value) -> Result<Self, String> {
        let fault = || "`chat_template` is neither a text nor a list of named templates".to_owned();
        let named = match setting {
            Value::Null => return Ok(Self::default()),
            Value::String(source) => return Ok(Self::from(source.clone())),
            Value::Array(list) => list
                .iter()
                .map(|entry| Some((entry["name"].as_str()?, entry["template"].as_str()?)))
                .collect(),
            Value::Object(map) => map
                .iter()
                .map(|(name, source)| Some((name.as_str(), source.as_str()?)))
                .collect(),
            _ => None,
        };
        let named: Vec<(&str, &str)> = named.ok_or_else(fault)?;
        // The last of one name is taken, as in Python.
        Ok(named
            .into_iter()
            .fold(Self::default(), |all, (name, source)| {
                all.with(Some(name), source.to_owned())
            }))
    }

    /// The same with `source` under `name`, which replaces one of that name; `None` is the default.
    pub fn with(mut self, name: Option<&str>, source: String) -> Self {
        let name = name.unwrap_or(DEFAULT);
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), source));
        self
    }

    /// The one under `name` alone, for every row.
    pub(super) fn one(&self, name: &str) -> Option<Self> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, source)| Self::from(source.clone()))
    }

    /// All names, for a message.
    pub(super) fn names(&self) -> String {
        self.0
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text that a conversation without tools takes, or one with them, as transformers chooses.
    pub fn taken(&self, tools: bool) -> Option<&str> {
        let named = |wanted: &str| {
            let mut all = self.iter();
            all.find_map(|(name, source)| (name == wanted).then_some(source))
        };
        named("tool_use")
            .filter(|_| tools)
            .or_else(|| named(DEFAULT))
    }

    /// Names and texts; the default one is called `default`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, source)| (name.as_str(), source.as_str()))
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|(_, source)| source.as_str())
    }
}
