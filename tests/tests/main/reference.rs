//! The reference of the configuration and its JSON Schema are what the code says: `just bless`
//! writes both.

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use qlora_config::json_schema;
use serde_json::Value;

const BEGIN: &str = "<!-- The tables are generated from";
const END: &str = "<!-- End of the tables. -->";
/// What begins the meaning of a key that has no default and is needed.
const REQUIRED: &str = "Required: ";

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/reference")
        .join(name)
}

#[test]
fn the_json_schema_of_the_reference_is_that_of_the_code() {
    let schema = format!("{:#}\n", json_schema());
    expect_file![reference("config.schema.json")].assert_eq(&schema);
}

#[test]
fn the_tables_of_the_reference_are_those_of_the_schema() {
    let path = reference("config.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (head, rest) = page.split_once(BEGIN).expect("the beginning of the tables");
    let (note, _) = rest.split_once('\n').expect("a line");
    let (_, tail) = page.split_once(END).expect("the end of the tables");
    let tables = tables(&json_schema());
    expect_file![path].assert_eq(&format!("{head}{BEGIN}{note}\n{tables}\n{END}{tail}"));
}

/// A table a section, after one of the keys at the top of the file.
fn tables(schema: &Value) -> String {
    let entries = || schema["properties"].as_object().expect("keys").iter();
    let is_section = |property: &Value| property.get("properties").is_some();
    let top = entries()
        .filter(|(_, property)| !is_section(property))
        .map(|(key, property)| row(key, property));
    let mut text = format!("\n## At the top of the file\n\n{}", table(top));
    for (section, property) in entries().filter(|(_, property)| is_section(property)) {
        let keys = property["properties"].as_object().expect("keys");
        let rows = keys
            .iter()
            .map(|(key, property)| row(&format!("{section}.{key}"), property));
        let about = property["description"].as_str().expect("a description");
        text += &format!("\n## `{section}`\n\n{about}\n\n{}", table(rows));
    }
    text
}

fn table(rows: impl Iterator<Item = String>) -> String {
    let head = "| key | value | default | range | meaning |\n|---|---|---|---|---|\n";
    head.to_owned() + &rows.collect::<String>()
}

fn row(key: &str, property: &Value) -> String {
    let about = property["description"].as_str().expect("a description");
    let (meaning, default) = match about.strip_prefix(REQUIRED) {
        Some(rest) => (rest.to_owned(), "required".to_owned()),
        None => (about.to_owned(), default(&property["default"])),
    };
    let words = words_with_meanings(property);
    let meaning = sentence(&meaning) + &words;
    let range = range(property);
    format!(
        "| `{key}` | {} | {default} | {range} | {meaning} |\n",
        value(property)
    )
}

/// Beginning with a capital and ending with a point.
fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(usize::from(!text.starts_with('`')));
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{}{rest}{end}", first.to_uppercase())
}

fn words_with_meanings(property: &Value) -> String {
    let forms = property["oneOf"].as_array().into_iter().flatten();
    let line = |form: &Value| {
        let about = form["description"].as_str().expect("a description");
        match form.get("const") {
            Some(word) => format!("<br>{}: {}", code(word), uncapitalized(about)),
            None => format!("<br>{about}"),
        }
    };
    forms.map(line).collect()
}

/// The meaning of a word follows a colon; a name such as NVIDIA or AdamW keeps its capitals.
fn uncapitalized(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    let is_name = word.chars().skip(1).any(char::is_uppercase);
    let (first, rest) = text.split_at(usize::from(!is_name));
    first.to_lowercase() + rest
}

/// What may be written.
fn value(property: &Value) -> String {
    if let Some(forms) = property["oneOf"].as_array() {
        let words: Vec<String> = forms
            .iter()
            .filter_map(|form| form.get("const"))
            .map(code)
            .collect();
        return words.join(", ");
    }
    if let Some(forms) = property["anyOf"].as_array() {
        return forms.iter().map(value).collect::<Vec<_>>().join("; ");
    }
    if let Some(word) = property.get("const") {
        return code(word);
    }
    if let Some(items) = property.get("items") {
        return format!("list of {}", value(items));
    }
    let is_ranged = property.get("x-range").is_some();
    if let Some(words) = property["enum"].as_array().filter(|_| !is_ranged) {
        let words: Vec<String> = words
            .iter()
            .filter(|word| !word.is_null())
            .map(code)
            .collect();
        return words.join(", ");
    }
    let kind = match &property["type"] {
        Value::Array(kinds) => &kinds[0],
        kind => kind,
    };
    match kind.as_str().expect("a type") {
        "boolean" => "`true`, `false`",
        "integer" => "whole number",
        "number" => "number",
        "object" => "names with texts",
        "string" if property["format"] == "date" => "date",
        "string" => "text",
        other => panic!("{other} has no words here"),
    }
    .into()
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Object(keys) if keys.is_empty() => "none".into(),
        // Without quotes it would be a date in YAML 1.1.
        Value::String(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("`\"{text}\"`")
        }
        Value::Array(list) => {
            let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            format!("`[{}]`", words.join(", "))
        }
        other => code(other),
    }
}

fn range(property: &Value) -> String {
    let said = |key: &str| property[key].as_str().unwrap_or_default();
    format!("{} {}", said("x-range"), said("x-unit"))
        .trim()
        .into()
}

fn code(value: &Value) -> String {
    match value {
        Value::String(word) => format!("`{word}`"),
        other => format!("`{other}`"),
    }
}
