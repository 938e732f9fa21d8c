//! What the calls of a tool are held against: the schema of its parameters, compiled, where it is
//! one and stands where it is read.

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::reach::Reach;
use super::schema;

/// What calls of a tool are held against.
pub(super) struct Held<'c> {
    pub schema: &'c Value,
    pub validator: Validator,
}

/// What calls of `function` are held against; `fault` hears what is wrong with its definition.
pub(super) fn held<'c>(
    function: &'c Map<String, Value>,
    fault: &mut impl FnMut(String),
) -> Option<Held<'c>> {
    for key in BESIDE
        .iter()
        .filter(|key| function.get(**key).is_some_and(says_something))
    {
        fault(format!(
            "`{key}` stands beside `parameters`, where it is not read; it belongs into their schema"
        ));
    }
    match function.get("parameters") {
        None => {
            elsewhere(function).into_iter().for_each(fault);
            None
        }
        Some(schema) => compile(schema, fault),
    }
}

/// Says that the schema of a `function` without parameters stands under another name.
fn elsewhere(function: &Map<String, Value>) -> Option<String> {
    let beside = |key: &str| BESIDE.contains(&key);
    let mut entries = function.iter().filter(|(key, _)| !beside(key));
    let (key, _) = entries.find(|(key, value)| is_schema_elsewhere(key, value))?;
    Some(format!(
        "`{key}` is not read; the schema of its parameters belongs under `parameters`"
    ))
}

/// What calls are held against by `schema`; `fault` hears what is wrong with it.
fn compile<'c>(schema: &'c Value, fault: &mut impl FnMut(String)) -> Option<Held<'c>> {
    let faults = schema::faults(schema);
    let named = !faults.is_empty();
    faults.into_iter().for_each(&mut *fault);
    // Compiled, such a schema takes for ever, or more memory than there is; of one whose references
    // are not all followed nobody knows.
    let mut reach = Reach::of(schema);
    if reach.unfollowed().is_some() || reach.multiplies() {
        return None;
    }
    match schema::validator(schema) {
        Ok(validator) => Some(Held { schema, validator }),
        Err(e) => {
            if !named {
                fault(format!("its parameters are not JSON Schema: {e}"));
            }
            None
        }
    }
}

/// Keywords of a schema that some sets write beside it.
const BESIDE: [&str; 8] = [
    "required",
    "properties",
    "additionalProperties",
    "patternProperties",
    "$defs",
    "definitions",
    "optional",
    "arguments",
];

fn says_something(value: &Value) -> bool {
    ![
        Value::Null,
        Value::Array(Vec::new()),
        Value::Object(Map::new()),
        "".into(),
    ]
    .contains(value)
}

/// Whether `key` of a function without parameters looks like a schema of them under another name.
fn is_schema_elsewhere(key: &str, value: &Value) -> bool {
    let is_result = [
        "return",
        "returns",
        "response",
        "output",
        "output_schema",
        "outputSchema",
    ]
    .contains(&key);
    !is_result && value.is_object()
}
