//! Definitions of tools in one form, whichever of the common ones they come in.

use serde_json::{Map, Value, json};

use crate::nulls::prune_schema;
use crate::strict;

/// Names of the schema of a tool's parameters: `parameters`, and those that other programs have for
/// it.
const PARAMETERS: [&str; 7] = [
    "parameters",
    "input_schema",
    "inputSchema",
    "parametersJsonSchema",
    "parameters_json_schema",
    "args_schema",
    "schema",
];

/// The object that holds `name` and `parameters`: the tool itself, or its `function`.
pub(crate) fn function_of(tool: &Value) -> Option<&Map<String, Value>> {
    let function = tool.get("function").unwrap_or(tool).as_object()?;
    function.get("name")?.as_str()?;
    Some(function)
}

/// The tools of a row: a list, or the JSON text of one; nothing, however it is written, is no
/// tools.
pub(crate) fn normal_tools(tools: Option<Value>) -> Result<Vec<Value>, String> {
    let tools = match tools {
        // Data sets with one schema for all rows keep tools as JSON text.
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => {
            strict::parse(&text).map_err(|e| format!("its text is not JSON: {e}"))?
        }
        Some(tools) => tools,
        None => return Ok(Vec::new()),
    };
    match tools {
        Value::Null => Ok(Vec::new()),
        Value::Array(tools) => {
            let numbered = tools.into_iter().enumerate();
            numbered
                .map(|(i, tool)| normal_tool(tool).map_err(|fault| format!("tool {i} {fault}")))
                .collect()
        }
        _ => Err("it is not a list".into()),
    }
}

fn normal_tool(tool: Value) -> Result<Value, String> {
    // Some sets keep each tool as JSON text.
    let tool = match tool {
        Value::String(text) => {
            strict::parse(&text).map_err(|e| format!("is text that is not JSON: {e}"))?
        }
        other => other,
    };
    let Value::Object(mut tool) = tool else {
        return Err("is not an object".into());
    };
    if tool
        .get("type")
        .is_some_and(|kind| !kind.is_null() && kind != "function")
    {
        return Err(format!(
            "is of type {}; only functions can be called",
            tool["type"]
        ));
    }
    let function = match tool.get_mut("function").map(Value::take) {
        None => {
            tool.shift_remove("type");
            return Ok(json!({"type": "function", "function": function(tool)?}));
        }
        Some(Value::Object(inner)) => {
            beside(&tool)?;
            function(inner)?
        }
        Some(_) => return Err("has a `function` that is not an object".into()),
    };
    tool.insert("function".into(), Value::Object(function));
    tool.retain(|_, value| !value.is_null());
    if !tool.contains_key("type") {
        tool.shift_insert(0, "type".into(), "function".into());
    }
    Ok(Value::Object(tool))
}

/// Refuses what stands beside `function`, where nothing reads it.
fn beside(tool: &Map<String, Value>) -> Result<(), String> {
    let known = |key: &str| matches!(key, "type" | "function" | "strict");
    match tool
        .iter()
        .find(|(key, value)| !value.is_null() && !known(key))
    {
        Some((key, _)) => Err(format!(
            "has `{key}` beside `function`; write it inside, or leave it out"
        )),
        None => Ok(()),
    }
}

/// A function's definition with its schema under `parameters`.
fn function(function: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if function
        .get("name")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        return Err("has no `name`".into());
    }
    let mut normal = Map::new();
    for (key, mut value) in function {
        let is_schema = PARAMETERS.contains(&key.as_str());
        if value.is_null() {
            continue;
        }
        let name = if is_schema {
            "parameters".to_owned()
        } else {
            key
        };
        if is_schema {
            if let Value::String(text) = &value {
                value = strict::parse(text)
                    .map_err(|e| format!("has `parameters` that are not JSON: {e}"))?;
            }
            prune_schema(&mut value);
        }
        if normal.insert(name, value).is_some() {
            return Err("has its parameters under two names; keep `parameters`".into());
        }
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_tool_becomes_one() {
        let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
        let wanted = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}});
        let function =
            |key: &str| json!({"name": "f", "description": "d", key: schema, "strict": null});
        let mut forms: Vec<Value> = PARAMETERS.iter().map(|key| function(key)).collect();
        forms.push(json!({"type": "function", "function": function("parameters")}));
        forms.push(json!({"function": function("inputSchema"), "type": null}));
        forms.push(json!({"type": "function", "name": "f", "description": "d", "parameters": schema.to_string()}));
        forms.push(Value::String(wanted.to_string()));
        for form in forms {
            let listed = json!([form]);
            for tools in [Value::String(listed.to_string()), listed] {
                assert_eq!(
                    normal_tools(Some(tools)).expect("tools"),
                    std::slice::from_ref(&wanted),
                    "{form}"
                );
            }
        }
        for nothing in [
            None,
            Some(Value::Null),
            Some(json!([])),
            Some(json!("")),
            Some(json!(" [] ")),
            Some(json!("null")),
        ] {
            assert_eq!(normal_tools(nothing), Ok(Vec::new()));
        }
    }

    #[test]
    fn what_is_no_tool_is_refused_by_name() {
        for (tools, named) in [
            (json!({"name": "f"}), "not a list"),
            (json!("{broken"), "not JSON"),
            (
                json!([{"name": "f"}, {"description": "d"}]),
                "tool 1 has no `name`",
            ),
            (json!([{"type": "web_search", "name": "f"}]), "web_search"),
            (
                json!([{"name": "f", "parameters": {"type": "object"}, "input_schema": {"type": "object"}}]),
                "two names",
            ),
            (json!([3]), "tool 0 is not an object"),
            (
                json!([{"function": {"name": "f"}, "parameters": {"type": "object"}}]),
                "`parameters` beside `function`",
            ),
            (
                json!([{"type": "function", "function": {"name": "f"}, "required": ["x"]}]),
                "`required` beside",
            ),
            (
                json!([{"type": "function", "function": {"name": "f"}, "enabled": false}]),
                "`enabled` beside",
            ),
        ] {
            let fault = normal_tools(Some(tools)).expect_err("a fault");
            assert!(fault.contains(named), "{fault}");
        }
    }
}
