//! One layer of a configuration, and the messages about a file that cannot be one.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use qlora_codes::Code;

use crate::diagnostic::{ConfigErrors, Diagnostic, Location, Place};
use crate::yaml::{self, Syntax};

/// What the file's layer is called.
pub(crate) const FILE_LAYER: &str = "file";

/// One layer of values under the name that messages use for it.
pub(crate) struct Layer {
    pub name: String,
    pub dict: Dict,
}

impl Layer {
    pub fn parse_raw(text: &str) -> Result<Dict, Syntax> {
        let top = match yaml::read(text)? {
            Value::Dict(_, dict) => return Ok(dict),
            Value::Empty(..) => return Ok(Dict::new()),
            Value::Array(..) => "a list stands at its top, where keys with values belong",
            _ => "a single value stands at its top, where keys with values belong",
        };
        let help = "docs/reference/config.md shows the keys; a configuration starts with `extends:` or a section";
        Err(Syntax {
            message: top.into(),
            at: None,
            help: help.into(),
        })
    }

    pub fn parse(text: &str) -> Result<Self, Syntax> {
        Ok(Self {
            name: FILE_LAYER.into(),
            dict: Self::parse_raw(text)?,
        })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = self.dict.clone();
        dict.remove("extends");
        Ok(BTreeMap::from([(Profile::Default, dict)]))
    }
}

pub(crate) fn path_of(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

pub(crate) fn syntax_error(source: &str, error: Syntax) -> ConfigErrors {
    let place = |(line, column)| {
        Place::Text(Location {
            source: source.to_owned(),
            line,
            column,
        })
    };
    Diagnostic {
        code: Code::NotYaml,
        message: format!("{source} is not YAML that can be read: {}", error.message),
        place: error.at.map(place),
        help: Some(error.help),
    }
    .into()
}

/// A key that two places of one file set; which of them counts would be a guess.
pub(crate) fn given_twice(source: &str, key: &str, lines: &[u64]) -> Diagnostic {
    let lines: Vec<String> = lines.iter().map(u64::to_string).collect();
    let (last, others) = lines
        .split_last()
        .map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
    Diagnostic {
        code: Code::NotYaml,
        message: format!(
            "`{key}` is given {} in {source}, lines {} and {last}",
            times(lines.len()),
            others.join(", ")
        ),
        place: None,
        help: Some(
            if key.contains('.') {
                "keep one of them"
            } else {
                "merge the two sections"
            }
            .into(),
        ),
    }
}

/// A list where a section belongs; its values would be taken by their place.
pub(crate) fn list_for_section(section: &str) -> Diagnostic {
    Diagnostic {
        code: Code::WrongType,
        message: format!("`{section}` must be a section of keys, not a list"),
        place: None,
        help: Some("give each value its key, as in `lora: {r: 16, alpha: 32}`".into()),
    }
}

fn times(n: usize) -> String {
    if n == 2 {
        "twice".into()
    } else {
        format!("{n} times")
    }
}
