//! Lays defaults, preset, file, environment and flags over one another and keeps track of who said what.

use std::collections::BTreeMap;

use figment::providers::Format;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, error::Kind};
use serde_saphyr::figment::Yaml;
use sha2::{Digest, Sha256};

use crate::diagnostic::{ConfigErrors, Diagnostic, Location, Place};
use crate::locate::locate;
use crate::presets::{DEFAULTS, preset, preset_names};
use crate::schema::TrainingConfig;
use crate::validate::validate;

const FILE_LAYER: &str = "file";

/// The layers above the defaults, as a person gave them.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Name and text of the configuration file.
    pub file: Option<(String, String)>,
    /// `QLORA__SECTION__KEY` variables with their values; others are ignored.
    pub env: Vec<(String, String)>,
    /// `section.key=value` pairs of `--set`.
    pub set: Vec<String>,
}

/// A configuration in which every check has passed, together with the hash of its canonical form.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedConfig {
    config: TrainingConfig,
    json: String,
    hash: String,
}

impl ResolvedConfig {
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The exact configuration as JSON: what a job records.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// SHA-256 of [`Self::json`], in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Reads back what [`Self::json`] wrote, checking it again.
    pub fn from_json(json: &str) -> Result<Self, ConfigErrors> {
        let config: TrainingConfig = serde_json::from_str(json).map_err(|e| Diagnostic {
            code: "Q0102",
            message: format!("the recorded configuration cannot be read: {e}"),
            place: None,
            help: Some("submit the job again with this version of qlora-ctl".into()),
        })?;
        Self::check(config, &|_| None)
    }

    fn check(config: TrainingConfig, place: &dyn Fn(&[String]) -> Option<Place>) -> Result<Self, ConfigErrors> {
        let faults: Vec<_> = validate(&config)
            .into_iter()
            .map(|fault| {
                let path: Vec<String> = fault.key.split('.').map(str::to_owned).collect();
                Diagnostic { code: "Q0103", message: fault.message, place: place(&path), help: fault.help }
            })
            .collect();
        if !faults.is_empty() {
            return Err(ConfigErrors(faults));
        }
        let json = serde_json::to_string(&config).map_err(|e| Diagnostic {
            code: "Q0102",
            message: format!("the configuration cannot be written as JSON: {e}"),
            place: None,
            help: None,
        })?;
        let hash = hex::encode(Sha256::digest(json.as_bytes()));
        Ok(Self { config, json, hash })
    }
}

impl Layers {
    /// Merges the layers and checks the result.
    ///
    /// # Errors
    /// Every fault with its place: a misspelt or missing key, a wrong type, a value outside its range.
    pub fn resolve(&self) -> Result<ResolvedConfig, ConfigErrors> {
        let overrides = self.overrides()?;
        let preset_text = self.preset_text(&overrides)?;
        let mut figment = Figment::from(Yaml::string(DEFAULTS));
        if let Some(text) = preset_text {
            figment = figment.merge(Yaml::string(text));
        }
        if let Some((_, text)) = &self.file {
            figment = figment.merge(Layer::parse(text).map_err(|e| self.syntax_error(e))?);
        }
        for (name, dict) in overrides {
            figment = figment.merge(Layer { name, dict });
        }
        let config = figment.extract::<TrainingConfig>().map_err(|errors| self.explain(errors))?;
        ResolvedConfig::check(config, &|path| self.place(&figment, path))
    }

    fn overrides(&self) -> Result<Vec<(String, Dict)>, ConfigErrors> {
        let env = self.env.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix("QLORA__")?;
            Some((name.clone(), key.to_lowercase().replace("__", "."), value.clone()))
        });
        let mut layers: Vec<_> = env.map(|(name, key, value)| (name, nest(&key, &value))).collect();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| Diagnostic {
                code: "Q0104",
                message: format!("`--set {pair}` has no value"),
                place: None,
                help: Some("write --set section.key=value, such as --set lora.r=8".into()),
            })?;
            layers.push((format!("--set {key}"), nest(key.trim(), value.trim())));
        }
        Ok(layers)
    }

    fn preset_text(&self, overrides: &[(String, Dict)]) -> Result<Option<&'static str>, ConfigErrors> {
        let from_overrides = overrides.iter().rev().find_map(|(_, dict)| dict.get("extends").cloned());
        let from_file = || {
            let (_, text) = self.file.as_ref()?;
            Layer::parse_raw(text).ok()?.remove("extends")
        };
        let Some(value) = from_overrides.or_else(from_file) else { return Ok(None) };
        let name = value.as_str().unwrap_or_default().to_owned();
        preset(&name).map(Some).ok_or_else(|| {
            let known: Vec<_> = preset_names().collect();
            ConfigErrors::from(Diagnostic {
                code: "Q0105",
                message: format!("no preset is called `{name}`"),
                place: self.place_in_file(&["extends".to_owned()]),
                help: Some(format!("extends: takes {}", known.join(", "))),
            })
        })
    }

    fn syntax_error(&self, error: String) -> ConfigErrors {
        let source = self.file.as_ref().map_or_else(String::new, |(name, _)| name.clone());
        Diagnostic {
            code: "Q0100",
            message: format!("{source} is not YAML: {error}"),
            place: None,
            help: Some("a key and its value are written `key: value`, with the same indent in one section".into()),
        }
        .into()
    }

    fn explain(&self, errors: figment::Error) -> ConfigErrors {
        ConfigErrors(errors.into_iter().map(|error| self.explain_one(error)).collect())
    }

    fn explain_one(&self, error: figment::Error) -> Diagnostic {
        let mut path = error.path.clone();
        let (code, message, help) = match &error.kind {
            Kind::UnknownField(key, expected) => {
                if path.last() != Some(key) {
                    path.push(key.clone());
                }
                ("Q0101", format!("unknown key `{}`", path.join(".")), nearest(key, &path, expected))
            }
            Kind::MissingField(key) => {
                path.push(key.to_string());
                ("Q0106", format!("`{}` is missing", path.join(".")), None)
            }
            Kind::UnknownVariant(value, expected) => (
                "Q0107",
                format!("`{}` cannot be `{value}`", path.join(".")),
                Some(format!("it takes {}", expected.join(", "))),
            ),
            kind => ("Q0108", format!("`{}`: {kind}", path.join(".")), None),
        };
        let named = error.metadata.as_ref().map(|m| m.name.to_string());
        let place = match named {
            Some(name) if name != FILE_LAYER && !name.starts_with("YAML") => Some(Place::Named(name)),
            _ => self.place_in_file(&path),
        };
        Diagnostic { code, message, place, help }
    }

    fn place(&self, figment: &Figment, path: &[String]) -> Option<Place> {
        let metadata = figment.find_metadata(&path.join("."));
        match metadata.map(|m| m.name.to_string()) {
            Some(name) if name != FILE_LAYER && !name.starts_with("YAML") => Some(Place::Named(name)),
            _ => self.place_in_file(path),
        }
    }

    fn place_in_file(&self, path: &[String]) -> Option<Place> {
        let (source, text) = self.file.as_ref()?;
        let (line, column) = locate(text, path)?;
        Some(Place::Text(Location { source: source.clone(), line, column }))
    }
}

/// One layer of values under the name that messages use for it.
struct Layer {
    name: String,
    dict: Dict,
}

impl Layer {
    fn parse_raw(text: &str) -> Result<Dict, String> {
        match <Yaml as Format>::from_str::<Value>(text).map_err(|e| e.to_string())? {
            Value::Dict(_, dict) => Ok(dict),
            Value::Empty(..) => Ok(Dict::new()),
            _ => Err("the file must hold keys with values at its top".into()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { name: FILE_LAYER.into(), dict: Self::parse_raw(text)? })
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

/// `a.b` and `1` become `{a: {b: 1}}`; the value is read as YAML, and as plain text where it is none.
fn nest(key: &str, value: &str) -> Dict {
    let parsed = <Yaml as Format>::from_str::<Value>(value).unwrap_or_else(|_| Value::from(value));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let leaf = Dict::from([(last.to_owned(), parsed)]);
    parts.into_iter().rev().fold(leaf, |inner, part| Dict::from([(part.to_owned(), Value::from(inner))]))
}

/// The known key that was probably meant.
fn nearest(key: &str, path: &[String], expected: &[&str]) -> Option<String> {
    let parent = path[..path.len() - 1].join(".");
    let full = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
    let best = expected.iter().map(|name| (strsim::damerau_levenshtein(key, name), *name)).min()?;
    if best.0 <= 2.max(key.len() / 3) {
        return Some(format!("did you mean `{}`?", full(best.1)));
    }
    Some(format!("{} takes {}", if parent.is_empty() { "the file" } else { &parent }, expected.join(", ")))
}
