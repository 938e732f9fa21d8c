//! Lays defaults, preset, file, environment and flags over one another and keeps track of who said what.

use std::collections::BTreeMap;

use figment::providers::Format;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_saphyr::figment::Yaml;
use sha2::{Digest, Sha256};

use crate::diagnostic::{ConfigErrors, Diagnostic, Location, Place};
use crate::explain::explain;
use crate::known::{Unknown, default_of, take_unknown};
use crate::locate::{locate, repeated};
use crate::nested::{holds, nest, nest_value};
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
        let mut layers = self.file_layer()?.into_iter().collect::<Vec<_>>();
        let preset_text = self.preset_text(&overrides)?;
        layers.extend(overrides.into_iter().map(|(name, dict)| Layer { name, dict }));
        let mut faults = Vec::new();
        let mut figment = Figment::from(Yaml::string(DEFAULTS));
        if let Some(text) = preset_text {
            figment = figment.merge(Yaml::string(text));
        }
        for mut layer in layers {
            faults.extend(self.unknown_keys(&mut layer));
            figment = figment.merge(layer);
        }
        let config = self.extract(figment.clone(), &mut faults);
        match config {
            Some(config) if faults.is_empty() => ResolvedConfig::check(config, &|path| self.place(&figment, path)),
            _ => Err(ConfigErrors(faults)),
        }
    }

    /// Where the value of `key` was written: the variable or flag that is laid over the file, else the file.
    pub fn place_of(&self, key: &str) -> Option<Place> {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let named = self.overrides().ok()?.into_iter().rev().find(|(_, dict)| holds(dict, &path));
        named.map(|(name, _)| Place::Named(name)).or_else(|| self.place_in_file(&path))
    }

    /// The file as a layer.
    fn file_layer(&self) -> Result<Option<Layer>, ConfigErrors> {
        let Some((source, text)) = &self.file else { return Ok(None) };
        let repeated: Vec<_> =
            repeated(text).into_iter().map(|(key, lines)| given_twice(source, &key, &lines)).collect();
        if !repeated.is_empty() {
            return Err(ConfigErrors(repeated));
        }
        Layer::parse(text).map(Some).map_err(|e| self.syntax_error(e))
    }

    /// Removes the keys of `layer` that no configuration has, and names each.
    fn unknown_keys(&self, layer: &mut Layer) -> Vec<Diagnostic> {
        let unknown = take_unknown(&mut layer.dict);
        let named = (layer.name != FILE_LAYER).then(|| Place::Named(layer.name.clone()));
        let fault = |unknown: Unknown| Diagnostic {
            code: "Q0101",
            message: format!("unknown key `{}`", unknown.path.join(".")),
            place: named.clone().or_else(|| self.place_in_file(&unknown.path)),
            help: Some(unknown.help),
        };
        let mut faults: Vec<Diagnostic> = unknown.into_iter().map(fault).collect();
        faults.sort_by_key(|fault| match &fault.place {
            Some(Place::Text(location)) => (location.line, location.column),
            _ => (0, 0),
        });
        faults
    }

    /// The typed configuration. A value of the wrong type is noted and its default takes its place, so that the next
    /// one is found too.
    fn extract(&self, mut figment: Figment, faults: &mut Vec<Diagnostic>) -> Option<TrainingConfig> {
        let mut seen = Vec::new();
        loop {
            let errors = match figment.extract::<TrainingConfig>() {
                Ok(config) => return Some(config),
                Err(errors) => errors,
            };
            for error in errors {
                let path = error.path.clone();
                faults.push(self.explain_one(error));
                let (key, value) = default_of(&path)?;
                if seen.contains(&key) {
                    return None;
                }
                figment = figment.merge(Layer { name: "default".into(), dict: nest_value(&key, value) });
                seen.push(key);
            }
        }
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

    fn explain_one(&self, error: figment::Error) -> Diagnostic {
        let named = error.metadata.as_ref().map(|m| m.name.to_string());
        let explained = explain(&error);
        let place = match named {
            Some(name) if name != FILE_LAYER && !name.starts_with("YAML") => Some(Place::Named(name)),
            _ => self.place_in_file(&explained.path),
        };
        Diagnostic { code: explained.code, message: explained.message, place, help: explained.help }
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

/// A key that two places of one file set; which of them counts would be a guess.
fn given_twice(source: &str, key: &str, lines: &[u64]) -> Diagnostic {
    let lines: Vec<String> = lines.iter().map(u64::to_string).collect();
    let (last, others) = lines.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
    Diagnostic {
        code: "Q0100",
        message: format!("`{key}` is given {} in {source}, lines {} and {last}", times(lines.len()), others.join(", ")),
        place: None,
        help: Some(if key.contains('.') { "keep one of them" } else { "merge the two sections" }.into()),
    }
}

fn times(n: usize) -> String {
    if n == 2 { "twice".into() } else { format!("{n} times") }
}
