//! Which modules the names and patterns of an `adapter_config.json` mean, as PEFT matches them.

use fancy_regex::Regex;
use qlora_planner::ModelShape;
use serde_json::Value;

use crate::lora::Site;

/// A list of names, or a pattern for the whole path of a module.
pub(super) enum Modules {
    Names(Vec<String>),
    Pattern(Regex),
    /// Every linear layer but the output layer.
    AllLinear,
}

impl Modules {
    /// Reads the value of `key`.
    pub(super) fn read(key: &str, value: &Value) -> Result<Self, String> {
        let wrong = || format!("has `{key}: {value}`, which is no list of names and no pattern");
        match value {
            Value::String(text) if text == "all-linear" => Ok(Self::AllLinear),
            Value::String(text) => Ok(Self::Pattern(pattern(key, &format!("^(?:{text})$"))?)),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                Ok(Self::Names(names.collect::<Option<_>>().ok_or_else(wrong)?))
            }
            _ => Err(wrong()),
        }
    }

    pub(super) fn matches(&self, site: &Site) -> Result<bool, String> {
        let path = site.module_path();
        match self {
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| ends_with(&path, name))),
            Self::Pattern(pattern) => is_match(pattern, &path),
        }
    }

    /// The first name of the list that no module of the model has.
    pub(super) fn unknown(&self, shape: &ModelShape) -> Option<&str> {
        let Self::Names(names) = self else {
            return None;
        };
        let has =
            |name: &&String| every_site(shape).any(|site| ends_with(&site.module_path(), name));
        names.iter().find(|name| !has(name)).map(String::as_str)
    }
}

fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Values by pattern, such as `rank_pattern`: the first pattern that fits the end of a module's
/// path counts.
pub(super) struct ByPattern(Vec<(Regex, Value)>);

impl ByPattern {
    pub(super) fn read(key: &str, value: &Value) -> Result<Self, String> {
        let entries = value
            .as_object()
            .ok_or_else(|| format!("has `{key}: {value}`, which is no object"))?;
        let entry = |(name, value): (&String, &Value)| {
            Ok((
                pattern(key, &format!(r"^(?:.*\.)?(?:{name})$"))?,
                value.clone(),
            ))
        };
        entries
            .iter()
            .map(entry)
            .collect::<Result<_, String>>()
            .map(Self)
    }

    /// What stands for `site`.
    ///
    /// # Errors
    /// Several patterns fit and say different things; `serde_json` does not keep their order, which
    /// counts in PEFT.
    pub(super) fn of(&self, key: &str, site: &Site) -> Result<Option<&Value>, String> {
        let path = site.module_path();
        let mut found = None;
        for (pattern, value) in &self.0 {
            if !is_match(pattern, &path)? {
                continue;
            }
            match found {
                Some(other) if other != value => {
                    return Err(format!("has two entries of `{key}` for {path}"));
                }
                _ => found = Some(value),
            }
        }
        Ok(found)
    }

    /// The first pattern that fits none of `sites`.
    pub(super) fn unused(&self, sites: &[Site]) -> Result<Option<&str>, String> {
        for (pattern, _) in &self.0 {
            let mut used = false;
            for site in sites {
                used |= is_match(pattern, &site.module_path())?;
            }
            if !used {
                return Ok(Some(pattern.as_str()));
            }
        }
        Ok(None)
    }
}

fn pattern(key: &str, text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|e| format!("has a pattern in `{key}` that cannot be read ({e})"))
}

fn is_match(pattern: &Regex, path: &str) -> Result<bool, String> {
    pattern
        .is_match(path)
        .map_err(|e| format!("has a pattern that cannot be tried on {path} ({e})"))
}

/// Every place of a model that can have an adapter, in the order of the forward pass.
pub(super) fn every_site(shape: &ModelShape) -> impl Iterator<Item = Site> + use<> {
    let (layers, modules) = (shape.layers, shape.modules());
    (0..layers).flat_map(move |layer| modules.iter().map(move |&module| Site { layer, module }))
}
