//! The JSON Schema of a configuration file, for editors and for the reference.
//!
//! Types, words and meanings are those of `schema/`, defaults those of `presets/defaults.yaml`,
//! ranges those of `ranges.rs`. It describes one layer: no key is required, since another layer may
//! give it, and `extends` is a key. It does not know which keys contradict each other, or whether a
//! model or a file exists.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::known::defaults;
use crate::presets::preset_names;
use crate::ranges::RANGES;
use crate::schema::TrainingConfig;

/// Where the unit of a number is stated.
const UNIT: &str = "x-unit";
/// Where a number's range is stated in words.
const RANGE: &str = "x-range";

/// The schema, in draft 2020-12, with defaults, words, ranges and meanings. `x-unit` and `x-range`
/// state the unit and the range of a number in words.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Root>();
    RecursiveTransform(tidy).transform(&mut schema);
    let mut root = headed(schema.to_value());
    with_defaults(&mut root, &defaults_as_json());
    for range in RANGES {
        let path = range.key.replace('.', "/properties/");
        if let Some(Value::Object(property)) = root.pointer_mut(&format!("/properties/{path}")) {
            // Powers of two say all that a minimum would.
            property.remove("minimum");
            property.extend(range.limits.keywords());
            property.insert(RANGE.into(), range.limits.words().into());
            if !range.unit.is_empty() {
                property.insert(UNIT.into(), range.unit.into());
            }
        }
    }
    root
}

/// The same with what it is at the top, for people who read it.
fn headed(mut root: Value) -> Value {
    let mut keys = Map::new();
    if let Value::Object(rest) = &mut root {
        for key in ["$schema", "title", "description"] {
            keys.extend(rest.shift_remove(key).map(|value| (key.to_owned(), value)));
        }
        keys.extend(std::mem::take(rest));
    }
    keys.into()
}

/// The file: the configuration, and the preset that it starts from.
struct Root;

impl JsonSchema for Root {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Training configuration of qlora".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> Schema {
        let mut schema = TrainingConfig::json_schema(generator);
        let names: Vec<Value> = preset_names()
            .map(Value::from)
            .chain([Value::Null])
            .collect();
        let extends = json!({
            "description": "Preset to start from; the keys of this file are laid over its keys.",
            "enum": names,
            "default": null,
        });
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            let own = std::mem::take(properties);
            properties.insert("extends".into(), extends);
            properties.extend(own);
        }
        schema
    }
}

/// Takes away what says nothing of a layer: that keys are required, and the width of a number.
fn tidy(schema: &mut Schema) {
    schema.remove("required");
    let format = schema.get("format").and_then(Value::as_str);
    let narrow = format == Some("uint32");
    if format.is_some_and(|format| format.starts_with("uint") || format == "double") {
        schema.remove("format");
    }
    if narrow {
        schema.insert("maximum".into(), u32::MAX.into());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

/// States the default of every key below `schema`.
fn with_defaults(schema: &mut Value, defaults: &Map<String, Value>) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else {
        return;
    };
    for (key, default) in defaults {
        match (properties.get_mut(key), default) {
            (Some(section), Value::Object(keys)) if section.get("properties").is_some() => {
                with_defaults(section, keys);
            }
            (Some(Value::Object(property)), default) => {
                property.insert("default".into(), default.clone());
            }
            _ => {}
        }
    }
}

fn defaults_as_json() -> Map<String, Value> {
    match serde_json::to_value(defaults()) {
        Ok(Value::Object(defaults)) => defaults,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
