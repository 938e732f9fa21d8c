//! Nulls that always mean "not given": fields of a row and keywords of a schema. A null argument of
//! a call may be a value; `null_arguments.rs` decides that.

use serde_json::{Map, Value};

/// Leaves out the keywords of a schema that are null; `default` and `const` may have null as their
/// value.
pub(crate) fn prune_schema(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.retain(|key, value| !value.is_null() || key == "default" || key == "const");
    for (key, value) in object.iter_mut() {
        match key.as_str() {
            "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
                prune_each(value)
            }
            "default" | "const" | "enum" | "examples" | "example" => {}
            _ if value.is_array() => value
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(prune_schema),
            _ => prune_schema(value),
        }
    }
}

/// Schemas by name.
fn prune_each(schemas: &mut Value) {
    let Some(schemas) = schemas.as_object_mut() else {
        return;
    };
    schemas.retain(|_, schema| !schema.is_null());
    schemas.values_mut().for_each(prune_schema);
}

/// Leaves out what is null at the top of an object.
pub(crate) fn prune_top(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_lose_keywords_that_say_nothing() {
        let mut schema = json!({"type": "object", "description": null, "properties": {
            "a": null, "default": null, "b": {"type": "string", "enum": null, "default": null, "items": {"const": null, "title": null}},
        }, "anyOf": [{"required": null}]});
        prune_schema(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "properties": {
            "b": {"type": "string", "default": null, "items": {"const": null}},
        }, "anyOf": [{}]})
        );
    }
}
