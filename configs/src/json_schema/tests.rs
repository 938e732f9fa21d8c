#![expect(
    clippy::disallowed_methods,
    reason = "the tests read configurations and pages that ship"
)]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use qlora_codes::Code;

use super::*;
use crate::layers::Layers;
use crate::yaml;

/// Files of `invalid/` in which each key alone is right: another key, the model or the template
/// makes it wrong, or a key is missing, which another layer may give.
const FOUND_BY_CHECKS_ONLY: [&str; 16] = [
    "best_never.yaml",
    "cudnn_on_cpu.yaml",
    "flash_on_cpu.yaml",
    "flash_on_mac.yaml",
    "floor_of_no_fall.yaml",
    "home_folder.yaml",
    "invisible_name.yaml",
    "missing_data.yaml",
    "missing_model.yaml",
    "nf4_of_gguf.yaml",
    "no_template.yaml",
    "stop_after_the_end.yaml",
    "stop_never.yaml",
    "too_small.yaml",
    "uneven_workers.yaml",
    "warmup_too_long.yaml",
];

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn validator() -> Validator {
    let schema = json_schema();
    jsonschema::meta::validate(&schema).expect("a schema of its draft");
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema")
}

/// Texts of the YAML files of `folder`, in the order of their names.
fn texts(folder: PathBuf) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    paths.sort();
    let named = |path: PathBuf| {
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, fs::read_to_string(path).expect("a text"))
    };
    paths.into_iter().map(named).collect()
}

fn as_json(name: &str, text: &str) -> Value {
    let read = yaml::read(text).unwrap_or_else(|fault| panic!("{name}: {}", fault.message));
    serde_json::to_value(read).expect("JSON")
}

/// Blocks of YAML that a page shows.
fn shown(page: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(crate_folder().join("../docs").join(page)).expect("a page");
    let blocks = text.split("```yaml\n").skip(1);
    blocks
        .filter_map(|rest| Some((page.to_owned(), rest.split("```").next()?.to_owned())))
        .collect()
}

#[test]
fn every_shipped_configuration_fits_the_schema() {
    let validator = validator();
    let mut all = texts(crate_folder().into());
    all.extend(texts(crate_folder().join("presets")));
    for page in [
        "TRAINING_QUICKSTART.md",
        "SEVERAL_GPUS.md",
        "reference/config.md",
    ] {
        let found = shown(page);
        assert!(!found.is_empty(), "{page} shows no YAML");
        all.extend(found);
    }
    assert!(all.len() >= 10, "only {} configurations", all.len());
    for (name, text) in all {
        let given = as_json(&name, &text);
        let fault = validator.validate(&given).err();
        assert!(
            fault.is_none(),
            "{name}: {}",
            fault.map(|f| f.to_string()).unwrap_or_default()
        );
    }
}

/// The quickstart's is written to folders of users, where no schema lies beside it.
#[test]
fn shipped_configurations_name_the_schema_for_editors() {
    let mut seen = 0;
    for folder in [crate_folder().into(), crate_folder().join("presets")] {
        let named = texts(folder.clone());
        for (name, text) in named.iter().filter(|(name, _)| name != "quickstart.yaml") {
            let line = text.lines().next().unwrap_or_default();
            let path = line
                .strip_prefix("# yaml-language-server: $schema=")
                .unwrap_or_else(|| panic!("{name} begins with `{line}`"));
            assert!(folder.join(path).exists(), "{name}: {path}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} configurations");
}

#[test]
fn the_schema_refuses_every_broken_configuration_whose_keys_alone_are_wrong() {
    let validator = validator();
    let mut accepted = Vec::new();
    for (name, text) in texts(crate_folder().join("invalid")) {
        match yaml::read(&text) {
            Ok(value) => {
                let value = serde_json::to_value(value).expect("JSON");
                accepted.extend(validator.is_valid(&value).then_some(name));
            }
            // No editor reads it either.
            Err(_) => {
                let file = Some((name.clone(), text));
                let faults = Layers {
                    file,
                    ..Layers::default()
                }
                .resolve()
                .expect_err(&name);
                assert!(
                    faults.0.iter().all(|fault| fault.code == Code::NotYaml),
                    "{name}: {faults}"
                );
            }
        }
    }
    assert_eq!(accepted, FOUND_BY_CHECKS_ONLY);
}

/// A key is never silent in an editor, and the words of a key each have a meaning.
#[test]
fn every_key_has_a_meaning_and_a_default() {
    let schema = json_schema();
    let sections = schema["properties"].as_object().expect("keys");
    assert_eq!(sections.len(), 7, "{sections:?}");
    for (section, keys) in sections {
        assert!(keys["description"].is_string(), "{section}");
        for (key, property) in keys["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{section}.{key}");
            assert!(
                property.get("default").is_some(),
                "{section}.{key} has no default"
            );
            for word in property["oneOf"].as_array().into_iter().flatten() {
                assert!(word["description"].is_string(), "{section}.{key}: {word}");
            }
        }
        assert_eq!(
            keys.get("properties").is_some(),
            keys.get("additionalProperties").is_some()
        );
    }
}

/// What the reader takes beside the plain form of a value.
#[test]
fn forms_that_a_person_may_write_fit_the_schema() {
    let validator = validator();
    for (text, fits) in [
        ("training: {flash_attention: off}", true),
        ("training: {flash_attention: \"off\"}", true),
        ("training: {gradient_checkpointing: on}", true),
        (
            "training: {offload: yes, learning_rate: 1e-4, max_steps: 1_000}",
            true,
        ),
        ("training: {max_steps: ~}\nname:", true),
        ("lora: {target_modules: all-linear}", true),
        ("lora: {target_modules: q_proj}", false),
        ("lora: {target_modules: [q_proj, q_proj]}", false),
        ("extends: ~", true),
        ("data: {template_date: 2024-02-29}", true),
        ("resources: {max_retries: 4294967296}", false),
        ("x: &x {r: 8}\nlora: *x", false),
    ] {
        assert_eq!(validator.is_valid(&as_json(text, text)), fits, "{text}");
    }
}
