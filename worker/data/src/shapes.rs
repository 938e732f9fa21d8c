//! Rows of other shapes than `messages`, brought to it: ShareGPT, Alpaca, prompt and completion.

use serde_json::{Map, Value, json};

/// `row` with `messages`, where its shape is known; unchanged elsewhere.
pub(crate) fn to_messages(mut row: Value) -> Value {
    let Some(object) = row.as_object_mut() else { return row };
    if let Some(Value::String(text)) = object.get("tools") {
        // Data sets with one schema for all rows keep tools as JSON text.
        if let Ok(tools @ Value::Array(_)) = serde_json::from_str(text) {
            object.insert("tools".into(), tools);
        }
    }
    if object.contains_key("messages") {
        return row;
    }
    if let Some(Value::Array(turns)) = object.remove("conversations").or_else(|| object.remove("conversation")) {
        let system =
            object.get("system").and_then(Value::as_str).map(|text| json!({"role": "system", "content": text}));
        let messages = system.into_iter().chain(turns.into_iter().map(turn)).collect();
        object.insert("messages".into(), Value::Array(messages));
    } else if let Some(messages) = alpaca(object).or_else(|| completion(object)) {
        object.insert("messages".into(), messages);
    }
    row
}

/// One ShareGPT turn: `from` and `value`.
fn turn(mut turn: Value) -> Value {
    let Some(object) = turn.as_object_mut() else { return turn };
    if object.contains_key("role") {
        return turn;
    }
    let (Some(from), Some(value)) = (object.get("from").and_then(Value::as_str), object.get("value")) else {
        return turn;
    };
    match from {
        "human" | "user" => json!({"role": "user", "content": value}),
        "gpt" | "assistant" | "model" | "chatgpt" => json!({"role": "assistant", "content": value}),
        "system" => json!({"role": "system", "content": value}),
        "observation" | "tool" | "function_response" => json!({"role": "tool", "content": value}),
        "function_call" | "tool_call" => json!({"role": "assistant", "tool_calls": calls(value)}),
        other => json!({"role": other, "content": value}),
    }
}

/// The calls that a text of JSON holds: one, or a list of them. What is none is left as it is, for the check of the
/// message to refuse.
fn calls(value: &Value) -> Value {
    let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let call = |function: Value| json!({"type": "function", "function": function});
    match parsed {
        Some(Value::Array(list)) => list.into_iter().map(call).collect(),
        Some(one @ Value::Object(_)) => json!([call(one)]),
        _ => value.clone(),
    }
}

fn alpaca(row: &Map<String, Value>) -> Option<Value> {
    let text = |key: &str| row.get(key).and_then(Value::as_str);
    let (instruction, output) = (text("instruction")?, text("output")?);
    let question = match text("input").filter(|input| !input.trim().is_empty()) {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction.to_owned(),
    };
    let system = text("system").filter(|s| !s.is_empty()).map(|text| json!({"role": "system", "content": text}));
    let history = row.get("history").and_then(Value::as_array).into_iter().flatten().flat_map(|pair| {
        [json!({"role": "user", "content": pair[0]}), json!({"role": "assistant", "content": pair[1]})]
    });
    let last = [json!({"role": "user", "content": question}), json!({"role": "assistant", "content": output})];
    Some(system.into_iter().chain(history).chain(last).collect())
}

fn completion(row: &Map<String, Value>) -> Option<Value> {
    let list = |value: &Value, role: &str| match value {
        Value::String(text) => Some(vec![json!({"role": role, "content": text})]),
        Value::Array(messages) => Some(messages.clone()),
        _ => None,
    };
    let (prompt, completion) = (list(row.get("prompt")?, "user")?, list(row.get("completion")?, "assistant")?);
    Some(prompt.into_iter().chain(completion).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(row: Value) -> Vec<(String, Value)> {
        let row = to_messages(row);
        let messages = row["messages"].as_array().expect("messages").clone();
        messages
            .into_iter()
            .map(|m| (m["role"].as_str().unwrap_or_default().to_owned(), m["content"].clone()))
            .collect()
    }

    #[test]
    fn sharegpt_turns_become_messages_and_calls() {
        let row = json!({"system": "s", "tools": "[{\"name\": \"f\"}]", "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
            {"from": "observation", "value": "42"},
            {"from": "gpt", "value": "a"}
        ]});
        let row = to_messages(row);
        assert_eq!(row["tools"][0]["name"], "f");
        assert_eq!(row["messages"][2]["tool_calls"][0]["function"]["arguments"]["x"], 1);
        let order: Vec<_> = roles(row).into_iter().map(|(role, _)| role).collect();
        assert_eq!(order, ["system", "user", "assistant", "tool", "assistant"]);
    }

    #[test]
    fn alpaca_rows_join_instruction_and_input() {
        let plain = roles(json!({"instruction": "i", "input": "", "output": "o"}));
        assert_eq!(plain, [("user".into(), json!("i")), ("assistant".into(), json!("o"))]);
        let whole = roles(json!({"instruction": "i", "input": "x", "output": "o", "history": [["a", "b"]]}));
        assert_eq!(whole[2], ("user".into(), json!("i\n\nx")));
        assert_eq!(whole[1], ("assistant".into(), json!("b")));
    }

    #[test]
    fn prompts_and_completions_may_be_texts_or_messages() {
        let row = json!({"prompt": [{"role": "user", "content": "p"}], "completion": "c"});
        assert_eq!(roles(row), [("user".into(), json!("p")), ("assistant".into(), json!("c"))]);
    }

    #[test]
    fn messages_and_unknown_shapes_stay_as_they_are() {
        for row in [json!({"messages": [1], "instruction": "i", "output": "o"}), json!({"x": 1}), json!(3)] {
            assert_eq!(to_messages(row.clone()), row);
        }
    }
}
