//! Lays defaults, preset, file, environment and flags over one another and keeps track of which
//! layer set which key.

use figment::Figment;
use figment::providers::Format;
use figment::value::{Dict, Value};
use qlora_codes::Code;
use serde_saphyr::figment::Yaml;

use crate::diagnostic::{ConfigErrors, Diagnostic, Location, Place, Warning};
use crate::explain::explain;
use crate::interplay::{Idle, idle};
use crate::known::{Unknown, default_of, is_text, take_lists, take_unknown};
use crate::layer::{FILE_LAYER, Layer, given_twice, list_for_section, path_of, syntax_error};
use crate::locate::{locate, repeated};
use crate::nested::{holds, nest, nest_value};
use crate::presets::{DEFAULTS, preset, preset_names};
use crate::resolved::ResolvedConfig;
use crate::schema::TrainingConfig;
use crate::yaml;

/// Parts of a key at the most, which is more than the schema has.
const DEEPEST: usize = 16;
/// Characters of a key that is longer than that which its message shows.
const SHOWN: usize = 40;

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

impl Layers {
    /// Merges the layers and checks the result.
    ///
    /// # Errors
    /// Every fault with its place: a misspelled or missing key, a wrong type, a value outside its
    /// range.
    pub fn resolve(&self) -> Result<ResolvedConfig, ConfigErrors> {
        let overrides = self.overrides()?;
        let mut layers = self.file_layer()?.into_iter().collect::<Vec<_>>();
        let preset_text = self.preset_text(&overrides)?;
        layers.extend(
            overrides
                .into_iter()
                .map(|(name, dict)| Layer { name, dict }),
        );
        let mut faults = Vec::new();
        let mut figment = Figment::from(Yaml::string(DEFAULTS));
        if let Some(text) = preset_text {
            figment = figment.merge(Yaml::string(text));
        }
        for mut layer in layers {
            faults.extend(self.unknown_keys(&mut layer));
            faults.extend(self.lists_for_sections(&mut layer));
            figment = figment.merge(layer);
        }
        let config = self.extract(figment.clone(), &mut faults);
        match config {
            Some(config) if faults.is_empty() => {
                let place = |path: &[String]| self.place(&figment, path);
                self.with_warnings(ResolvedConfig::check(config, &place)?, &place)
            }
            _ => Err(ConfigErrors(faults)),
        }
    }

    /// Refuses keys that were meant to act and do not, and notes others that have no effect.
    fn with_warnings(
        &self,
        resolved: ResolvedConfig,
        place: &dyn Fn(&[String]) -> Option<Place>,
    ) -> Result<ResolvedConfig, ConfigErrors> {
        let ranked = self.ranked()?;
        let rank = |key: &str| {
            let path = path_of(key);
            ranked
                .iter()
                .filter(|(_, dict)| holds(dict, &path))
                .map(|(rank, _)| *rank)
                .max()
                .unwrap_or(0)
        };
        let (refused, noted): (Vec<_>, Vec<_>) = idle(resolved.config(), &rank)
            .into_iter()
            .partition(|idle| idle.is_refused);
        let diagnostic = |code: Code, idle: Idle| Diagnostic {
            code,
            message: format!("`{}` {}", idle.key, idle.fault),
            place: place(&path_of(idle.key)),
            help: Some(idle.help.into()),
        };
        if !refused.is_empty() {
            return Err(ConfigErrors(
                refused
                    .into_iter()
                    .map(|idle| diagnostic(Code::InvalidValue, idle))
                    .collect(),
            ));
        }
        Ok(resolved.warned(
            noted
                .into_iter()
                .map(|idle| Warning(diagnostic(Code::IdleKey, idle)))
                .collect(),
        ))
    }

    /// What a person wrote, by how late it is: file, variables, flags.
    fn ranked(&self) -> Result<Vec<(usize, Dict)>, ConfigErrors> {
        let file = self.file_layer()?.map(|layer| (1, layer.dict));
        let laid_over = self.overrides()?.into_iter();
        let rank = |name: &str| if name.starts_with("--set") { 3 } else { 2 };
        Ok(file
            .into_iter()
            .chain(laid_over.map(|(name, dict)| (rank(&name), dict)))
            .collect())
    }

    /// Where the value of `key` was written: the variable or flag that is laid over the file, else
    /// the file.
    pub fn place_of(&self, key: &str) -> Option<Place> {
        let path = path_of(key);
        let named = self
            .overrides()
            .ok()?
            .into_iter()
            .rev()
            .find(|(_, dict)| holds(dict, &path));
        named
            .map(|(name, _)| Place::Named(name))
            .or_else(|| self.place_in_file(&path))
    }

    /// The file as a layer.
    fn file_layer(&self) -> Result<Option<Layer>, ConfigErrors> {
        let Some((source, text)) = &self.file else {
            return Ok(None);
        };
        let repeated: Vec<_> = repeated(text)
            .into_iter()
            .map(|(key, lines)| given_twice(source, &key, &lines))
            .collect();
        if !repeated.is_empty() {
            return Err(ConfigErrors(repeated));
        }
        Layer::parse(text)
            .map(Some)
            .map_err(|e| syntax_error(source, e))
    }

    /// Removes the keys of `layer` that no configuration has, and names each.
    fn unknown_keys(&self, layer: &mut Layer) -> Vec<Diagnostic> {
        let unknown = take_unknown(&mut layer.dict);
        let named = (layer.name != FILE_LAYER).then(|| Place::Named(layer.name.clone()));
        let fault = |unknown: Unknown| Diagnostic {
            code: Code::UnknownKey,
            message: format!("unknown key `{}`", unknown.path.join(".")),
            place: named.clone().or_else(|| self.place_in_file(&unknown.path)),
            help: Some(unknown.help),
        };
        let mut faults: Vec<Diagnostic> = unknown.into_iter().map(fault).collect();
        faults.sort_by_key(Diagnostic::position);
        faults
    }

    /// Removes the lists of `layer` that stand in the place of a section, and names each.
    fn lists_for_sections(&self, layer: &mut Layer) -> Vec<Diagnostic> {
        let lists = take_lists(&mut layer.dict);
        let named = (layer.name != FILE_LAYER).then(|| Place::Named(layer.name.clone()));
        let fault = |section: String| Diagnostic {
            place: named
                .clone()
                .or_else(|| self.place_in_file(std::slice::from_ref(&section))),
            ..list_for_section(&section)
        };
        let mut faults: Vec<Diagnostic> = lists.into_iter().map(fault).collect();
        faults.sort_by_key(Diagnostic::position);
        faults
    }

    /// The typed configuration. A value of the wrong type is noted and its default takes its place,
    /// so that the next one is found too.
    fn extract(
        &self,
        mut figment: Figment,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<TrainingConfig> {
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
                // A section of anyone's own keys has defaults for none of them.
                let (key, value) = if is_text(&path.join(".")) && key != path {
                    (path, Value::from(""))
                } else {
                    (key, value)
                };
                if seen.contains(&key) {
                    return None;
                }
                figment = figment.merge(Layer {
                    name: "default".into(),
                    dict: nest_value(&key, value),
                });
                seen.push(key);
            }
        }
    }

    fn overrides(&self) -> Result<Vec<(String, Dict)>, ConfigErrors> {
        let env = self.env.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix("QLORA__")?;
            Some((
                name.clone(),
                key.to_lowercase().replace("__", "."),
                value.clone(),
            ))
        });
        let env = env.map(|(name, key, value)| shallow(&key).map(|()| (name, nest(&key, &value))));
        let mut layers = env.collect::<Result<Vec<_>, _>>()?;
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| Diagnostic {
                code: Code::SetSyntax,
                message: format!("`--set {pair}` has no value"),
                place: None,
                help: Some("write --set section.key=value, such as --set lora.r=8".into()),
            })?;
            if key.trim().is_empty() {
                return Err(ConfigErrors::from(Diagnostic {
                    code: Code::SetSyntax,
                    message: format!("`--set {pair}` has no key"),
                    place: None,
                    help: Some("write --set section.key=value, such as --set lora.r=8".into()),
                }));
            }
            shallow(key.trim())?;
            layers.push((format!("--set {key}"), nest(key.trim(), value.trim())));
        }
        Ok(layers)
    }

    fn preset_text(
        &self,
        overrides: &[(String, Dict)],
    ) -> Result<Option<&'static str>, ConfigErrors> {
        let from_overrides = overrides
            .iter()
            .rev()
            .find_map(|(_, dict)| dict.get("extends").cloned());
        let from_file = || {
            let (_, text) = self.file.as_ref()?;
            Layer::parse_raw(text).ok()?.remove("extends")
        };
        let Some(value) = from_overrides.or_else(from_file) else {
            return Ok(None);
        };
        if matches!(value, Value::Empty(..)) {
            return Ok(None);
        }
        value.as_str().and_then(preset).map(Some).ok_or_else(|| {
            let known: Vec<_> = preset_names().collect();
            ConfigErrors::from(Diagnostic {
                code: Code::UnknownPreset,
                message: no_preset(&value),
                place: self.place_of("extends"),
                help: Some(format!("extends: takes one of {}", known.join(", "))),
            })
        })
    }

    fn explain_one(&self, error: figment::Error) -> Diagnostic {
        let named = error.metadata.as_ref().map(|m| m.name.to_string());
        let place = |path: &[String]| match &named {
            Some(name) if name != FILE_LAYER && !name.starts_with("YAML") => {
                Some(Place::Named(name.clone()))
            }
            _ => self.place_in_file(path),
        };
        let written = match (place(&error.path), &self.file) {
            (Some(Place::Text(at)), Some((_, text))) => yaml::written(text, (at.line, at.column)),
            _ => None,
        };
        let explained = explain(&error, written);
        let place = place(&explained.path);
        Diagnostic {
            code: explained.code,
            message: explained.message,
            place,
            help: explained.help,
        }
    }

    fn place(&self, figment: &Figment, path: &[String]) -> Option<Place> {
        let metadata = figment.find_metadata(&path.join("."));
        match metadata.map(|m| m.name.to_string()) {
            Some(name) if name != FILE_LAYER && !name.starts_with("YAML") => {
                Some(Place::Named(name))
            }
            _ => self.place_in_file(path),
        }
    }

    fn place_in_file(&self, path: &[String]) -> Option<Place> {
        let (source, text) = self.file.as_ref()?;
        let (line, column) = locate(text, path)?;
        Some(Place::Text(Location {
            source: source.clone(),
            line,
            column,
        }))
    }
}

/// Refuses a key of more parts than any has: whatever walks down its sections would not come back.
fn shallow(key: &str) -> Result<(), Diagnostic> {
    let parts = key.split('.').count();
    if parts <= DEEPEST {
        return Ok(());
    }
    let begin: String = key.chars().take(SHOWN).collect();
    Err(Diagnostic {
        code: Code::UnknownKey,
        message: format!(
            "the key `{begin}...` has {parts} parts, and none has more than {DEEPEST}"
        ),
        place: None,
        help: Some("write section.key, such as lora.r".into()),
    })
}

/// Why `value` of `extends` names no preset.
fn no_preset(value: &Value) -> String {
    match value {
        Value::String(_, name) => format!("no preset is called `{name}`"),
        Value::Array(..) => "`extends` takes one name, not a list".into(),
        _ => "`extends` takes the name of a preset".into(),
    }
}
