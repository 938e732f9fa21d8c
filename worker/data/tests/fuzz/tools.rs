//! A list of tools with their JSON Schemas.

use qlora_data::tools_of;
use qlora_fuzz::Target;
use serde_json::Value;

const WORDS: [&str; 26] = [
    "\"type\"",
    "\"object\"",
    "\"array\"",
    "\"properties\"",
    "\"items\"",
    "\"$ref\"",
    "\"#/$defs/a\"",
    "\"#\"",
    "\"$defs\"",
    "\"allOf\"",
    "\"anyOf\"",
    "\"oneOf\"",
    "\"not\"",
    "\"if\"",
    "\"pattern\"",
    "\"(a|a)*$\"",
    "\"\\\\d{1,9999}\"",
    "\"enum\"",
    "\"const\"",
    "\"format\"",
    "\"minimum\"",
    "\"multipleOf\"",
    "\"uniqueItems\"",
    "\"patternProperties\"",
    "\"dependentRequired\"",
    "\"$dynamicRef\"",
];

#[test]
fn fuzz_tools() {
    Target::new("tools")
        .seed(include_bytes!("seeds/tools.json"))
        .seed("[{\"name\": \"f\"}]")
        .words(&WORDS)
        .run(|bytes| check(&String::from_utf8_lossy(bytes)));
}

/// Tools that are taken are the same once they are written down.
fn check(text: &str) {
    match tools_of(text) {
        Ok(tools) => {
            let written = Value::Array(tools.clone()).to_string();
            assert_eq!(tools_of(&written), Ok(tools));
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}
