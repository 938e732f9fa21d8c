//! Shapes of rows: `messages`, ShareGPT, Alpaca, prompt and completion, plain text. A row has exactly one of them.

use serde_json::{Map, Value, json};

use crate::chat::RowError;
use crate::nulls::prune_top;
use crate::strict;
use crate::trained::{asks_for_nothing, says_what_is_trained};

/// What a row holds.
pub(crate) enum Shape {
    /// Messages, each still as its shape writes it but for the names of its keys.
    Chat(Vec<Value>),
    Text(String),
}

/// Keys that change what a row means, and that are not carried out, with what to do instead.
const REFUSED: [(&str, &str); 16] = [
    ("functions", "write `tools`, a list of function definitions"),
    ("function_call", "write `tool_calls` in the assistant's message"),
    ("documents", "write what they say into a message"),
    ("image", "only text can be trained on"),
    ("images", "only text can be trained on"),
    ("video", "only text can be trained on"),
    ("videos", "only text can be trained on"),
    ("audio", "only text can be trained on"),
    ("audios", "only text can be trained on"),
    ("chosen", "rows of preferences cannot be trained on; keep `messages`, or `prompt` and `completion`"),
    ("rejected", "rows of preferences cannot be trained on; keep `messages`, or `prompt` and `completion`"),
    ("chat_template_kwargs", "templates are given no variables; leave it out"),
    ("enable_thinking", "templates are given no variables; leave it out"),
    ("context", "write what it says into the question"),
    ("system_prompt", "write `system`"),
    ("instructions", "write what they say into `system` or into the question"),
];

/// Keys that hold what is trained on, or a part of it, in some shape.
const OF_SHAPES: [&str; 12] = [
    "messages",
    "conversations",
    "conversation",
    "system",
    "tools",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
];

/// Takes the messages or the text out of `row`.
pub(crate) fn recognize(row: &mut Map<String, Value>) -> Result<Shape, RowError> {
    prune_top(row);
    refused(row)?;
    let has = |key: &str| row.get(key).is_some_and(|value| *value != json!([]) && *value != json!(""));
    let found: Vec<&'static str> = [
        (has("messages"), "messages"),
        (has("conversations"), "conversations"),
        (has("conversation"), "conversation"),
        (has("instruction") && row.contains_key("output"), "instruction"),
        (has("prompt") && row.contains_key("completion"), "prompt"),
        (has("text"), "text"),
    ]
    .into_iter()
    .filter_map(|(there, name)| there.then_some(name))
    .collect();
    let shape = match found[..] {
        [shape] => shape,
        [first, second, ..] => return Err(RowError::TwoShapes(first, second)),
        [] if ["messages", "conversations", "conversation", "text"].iter().any(|key| row.contains_key(*key)) => {
            return Err(RowError::Empty);
        }
        [] => return Err(RowError::NoMessages),
    };
    only_of(shape, row)?;
    let messages = match shape {
        "text" => return text(row, "text").map(Shape::Text),
        "instruction" => alpaca(row)?,
        "prompt" => completion(row)?,
        listed => list(row, listed)?.into_iter().map(turn).collect(),
    };
    with_system(row, messages).map(Shape::Chat)
}

/// Refuses keys of other shapes than that whose first key is `shape`.
fn only_of(shape: &'static str, row: &Map<String, Value>) -> Result<(), RowError> {
    let own: &[&str] = match shape {
        "text" => &["text"],
        "instruction" => &["instruction", "output", "input", "history", "system", "tools"],
        "prompt" => &["prompt", "completion", "system", "tools"],
        "conversations" => &["conversations", "system", "tools"],
        "conversation" => &["conversation", "system", "tools"],
        _ => &["messages", "system", "tools"],
    };
    let is_foreign = |key: &str| OF_SHAPES.contains(&key) && !own.contains(&key);
    let adds = |value: &Value| holds_something(value) && !repeats(value, row.get(shape));
    match row.iter().find(|(key, value)| is_foreign(key) && adds(value)) {
        Some((key, _)) => {
            let text = format!("is not read beside `{shape}`; leave it out, or write what it says where it is read");
            Err(fault(key, &text))
        }
        None => Ok(()),
    }
}

/// Whether `value` is the text of one of `turns`, as public sets have it whose `prompt` repeats the first question.
fn repeats(value: &Value, turns: Option<&Value>) -> bool {
    let (Some(text), Some(turns)) = (value.as_str(), turns.and_then(Value::as_array)) else { return false };
    let says = |turn: &Value, key| turn.get(key).and_then(Value::as_str).is_some_and(|said| said.trim() == text.trim());
    turns.iter().any(|turn| says(turn, "content") || says(turn, "value"))
}

fn holds_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// The keys of a row that are not read.
pub(crate) fn unread(row: &Value) -> impl Iterator<Item = &str> {
    let entries = row.as_object().into_iter().flatten();
    let is_read = |key: &str| OF_SHAPES.contains(&key) || key == "label";
    let is_unread = move |key: &str| !is_read(key) && !says_what_is_trained(key);
    entries.filter(move |(key, value)| !value.is_null() && is_unread(key)).map(|(key, _)| key.as_str())
}

fn refused(row: &Map<String, Value>) -> Result<(), RowError> {
    if let Some((key, help)) = REFUSED.iter().find(|(key, _)| row.get(*key).is_some_and(holds_something)) {
        return Err(fault(key, &format!("is not read; {help}")));
    }
    if let Some((key, _)) = row.iter().find(|(key, value)| says_what_is_trained(key) && !asks_for_nothing(key, value)) {
        let help = "write `weight: 0` in the messages that are not trained on, and leave out the rows that are not";
        return Err(fault(key, &format!("says what is trained on, and is not read; {help}")));
    }
    if row.get("label").is_some_and(Value::is_boolean) && row.contains_key("completion") {
        return Err(fault(
            "label",
            "marks good and bad completions, and is not read; leave out the bad ones and the key",
        ));
    }
    Ok(())
}

fn fault(key: &str, text: &str) -> RowError {
    RowError::Key { key: key.to_owned(), fault: text.to_owned() }
}

fn text(row: &Map<String, Value>, key: &str) -> Result<String, RowError> {
    let text = row.get(key).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| fault(key, "is not text"))
}

/// A text that may be missing.
fn optional(row: &Map<String, Value>, key: &str) -> Result<Option<String>, RowError> {
    if row.contains_key(key) {
        text(row, key).map(|text| Some(text).filter(|text| !text.trim().is_empty()))
    } else {
        Ok(None)
    }
}

fn list(row: &mut Map<String, Value>, key: &str) -> Result<Vec<Value>, RowError> {
    match row.remove(key) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(fault(key, "is not a list")),
    }
}

/// A system text beside the messages is the first of them.
fn with_system(row: &Map<String, Value>, messages: Vec<Value>) -> Result<Vec<Value>, RowError> {
    let Some(system) = optional(row, "system")? else { return Ok(messages) };
    if messages.iter().any(|message| message["role"] == "system") {
        return Err(fault("system", "stands beside a system message; keep one of them"));
    }
    let first = json!({"role": "system", "content": system});
    Ok(std::iter::once(first).chain(messages).collect())
}

/// One ShareGPT turn, `from` and `value`, as a message; its other keys stay.
fn turn(turn: Value) -> Value {
    let Value::Object(mut turn) = turn else { return turn };
    if turn.contains_key("role") || !turn.contains_key("value") {
        return Value::Object(turn);
    }
    let Some(Value::String(from)) = turn.remove("from") else { return Value::Object(turn) };
    let value = turn.remove("value").unwrap_or_default();
    let (role, key, value) = match from.as_str() {
        "human" | "user" => ("user", "content", value),
        "gpt" | "assistant" | "model" | "chatgpt" => ("assistant", "content", value),
        "observation" | "tool" | "function_response" => ("tool", "content", value),
        "function_call" | "tool_call" => ("assistant", "tool_calls", calls(value)),
        other => (other, "content", value),
    };
    turn.insert("role".into(), role.into());
    turn.insert(key.into(), value);
    Value::Object(turn)
}

/// The calls that a text of JSON holds: one, or a list of them. What is none is left as it is, for the check of the
/// message to refuse.
fn calls(value: Value) -> Value {
    match value.as_str().and_then(|text| strict::parse(text).ok()) {
        Some(list @ Value::Array(_)) => list,
        Some(one @ Value::Object(_)) => json!([one]),
        _ => value,
    }
}

fn alpaca(row: &Map<String, Value>) -> Result<Vec<Value>, RowError> {
    let (instruction, output) = (text(row, "instruction")?, text(row, "output")?);
    let question = match optional(row, "input")? {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction,
    };
    let history: &[Value] = match row.get("history") {
        None => &[],
        Some(Value::Array(pairs)) => pairs,
        Some(_) => return Err(fault("history", "is not a list of pairs")),
    };
    let mut messages = Vec::new();
    for pair in history {
        let Some([asked, said]) = pair.as_array().map(Vec::as_slice) else {
            return Err(fault("history", "is not a list of pairs of a question and an answer"));
        };
        messages.push(json!({"role": "user", "content": asked}));
        messages.push(json!({"role": "assistant", "content": said}));
    }
    messages.push(json!({"role": "user", "content": question}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(messages)
}

fn completion(row: &Map<String, Value>) -> Result<Vec<Value>, RowError> {
    let messages = |key: &str, role: &str| match row.get(key) {
        Some(Value::String(text)) => Ok(vec![json!({"role": role, "content": text})]),
        Some(Value::Array(messages)) => Ok(messages.clone()),
        _ => Err(fault(key, "is neither text nor a list of messages")),
    };
    Ok([messages("prompt", "user")?, messages("completion", "assistant")?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conversation, Example};

    fn roles(row: Value) -> Vec<(String, Value)> {
        let conversation = Conversation::from_value(row).expect("a conversation");
        let pair = |m: &Value| (m["role"].as_str().unwrap_or_default().to_owned(), m["content"].clone());
        conversation.messages.iter().map(pair).collect()
    }

    #[test]
    fn sharegpt_turns_become_messages_and_calls() {
        let row = json!({"system": "s", "tools": "[{\"name\": \"f\"}]", "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
            {"from": "observation", "value": "42"},
            {"from": "gpt", "value": "a", "weight": 0}
        ]});
        let conversation = Conversation::from_value(row.clone()).expect("a conversation");
        assert_eq!(conversation.tools[0]["function"]["name"], "f");
        assert_eq!(conversation.messages[2]["tool_calls"][0]["function"]["arguments"]["x"], 1);
        assert_eq!(conversation.messages[4]["weight"], 0, "keys of a turn stay");
        let order: Vec<_> = roles(row).into_iter().map(|(role, _)| role).collect();
        assert_eq!(order, ["system", "user", "assistant", "tool", "assistant"]);
    }

    #[test]
    fn alpaca_rows_join_instruction_and_input() {
        let plain = roles(json!({"instruction": "i", "input": "", "output": "o"}));
        assert_eq!(plain, [("user".into(), json!("i")), ("assistant".into(), json!("o"))]);
        let whole =
            roles(json!({"instruction": "i", "input": "x", "output": "o", "history": [["a", "b"]], "system": "s"}));
        assert_eq!(whole[0], ("system".into(), json!("s")));
        assert_eq!(whole[3], ("user".into(), json!("i\n\nx")));
        assert_eq!(whole[2], ("assistant".into(), json!("b")));
    }

    #[test]
    fn prompts_and_completions_may_be_texts_or_messages() {
        let row = json!({"prompt": [{"role": "user", "content": "p"}], "completion": "c"});
        assert_eq!(roles(row), [("user".into(), json!("p")), ("assistant".into(), json!("c"))]);
    }

    #[test]
    fn nothing_is_no_shape_of_its_own() {
        let text = json!({"messages": null, "conversations": null, "prompt": "", "text": "t", "label": 3});
        assert_eq!(Example::from_value(text), Ok(Example::Text("t".into())));
        let twice = json!({"system": "", "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
        assert_eq!(roles(twice).len(), 3);
        for (empty, wanted) in [
            (json!({"text": ""}), RowError::Empty),
            (json!({"messages": []}), RowError::Empty),
            (json!({"x": 1}), RowError::NoMessages),
            (json!(3), RowError::NoMessages),
            (json!({"prompt": "p"}), RowError::NoMessages),
        ] {
            assert_eq!(Example::from_value(empty), Err(wanted));
        }
    }

    #[test]
    fn two_readings_and_keys_that_are_not_carried_out_are_refused_by_name() {
        let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
        for (rest, named) in [
            (json!({"text": "t"}), "`text`"),
            (json!({"input": "x"}), "`input`"),
            (json!({"history": [["a", "b"]]}), "`history`"),
            (json!({"prompt": "p"}), "`prompt`"),
            (json!({"output": "o"}), "`output`"),
            (json!({"context": "c"}), "`context`"),
            (json!({"system_prompt": "s"}), "`system_prompt`"),
            (json!({"instructions": "i"}), "`instructions`"),
            (json!({"enable_thinking": false}), "`enable_thinking`"),
            (json!({"is_trainable": false}), "`is_trainable`"),
            (json!({"instruction": "i", "output": "o"}), "`instruction`"),
            (json!({"conversations": [{"from": "gpt", "value": "a"}]}), "`conversations`"),
            (json!({"functions": [{"name": "f"}]}), "`functions`"),
            (json!({"images": ["x.png"]}), "`images`"),
            (json!({"weight": 0}), "`weight`"),
            (json!({"weight": 2}), "`weight`"),
            (json!({"loss_weight": 0.5}), "`loss_weight`"),
            (json!({"train_on": "last"}), "`train_on`"),
            (json!({"train": false}), "`train`"),
            (json!({"ignore": true}), "`ignore`"),
            (json!({"loss-mask": [0, 1]}), "`loss-mask`"),
            (json!({"Mask": true}), "`Mask`"),
            (json!({"rejected": "no"}), "`rejected`"),
            (json!({"tools": "f"}), "`tools`"),
            (json!({"system": 3}), "`system`"),
        ] {
            let mut row = json!({"messages": messages});
            row.as_object_mut().expect("a row").extend(rest.as_object().expect("keys").clone());
            let fault = Example::from_value(row).expect_err("a fault").to_string();
            assert!(fault.contains(named), "{fault}");
        }
        let twice = json!({"system": "s", "messages": [{"role": "system", "content": "t"}, {"role": "assistant", "content": "a"}]});
        assert!(Example::from_value(twice).expect_err("a fault").to_string().contains("`system`"));
        let usual = json!({"messages": messages, "weight": 1.0, "train": true, "ignore": false, "loss_mask": null});
        assert!(Example::from_value(usual).is_ok());
        let bad = json!({"prompt": "p", "completion": "c", "label": false});
        assert!(Example::from_value(bad).expect_err("a fault").to_string().contains("`label`"));
        for row in [
            json!({"instruction": "i", "output": "o", "input": 3}),
            json!({"instruction": "i", "output": "o", "history": [["a"]]}),
            json!({"messages": "text"}),
            json!({"prompt": 3, "completion": "c"}),
        ] {
            assert!(matches!(Example::from_value(row), Err(RowError::Key { .. })));
        }
    }

    #[test]
    fn a_key_that_only_repeats_a_turn_takes_nothing_away() {
        let row = |prompt: &str| json!({"prompt": prompt, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]});
        let read = |row: Value| recognize(&mut row.as_object().expect("an object").clone());
        assert!(matches!(read(row("Hi ")), Ok(Shape::Chat(_))));
        assert!(matches!(read(row("Hello")), Err(RowError::Key { .. })));
    }

    #[test]
    fn keys_of_another_shape_that_hold_something_are_refused_by_name() {
        let refused = |row: Value| Example::from_value(row).expect_err("a fault").to_string();
        for key in ["history", "input", "instruction"] {
            let fault = refused(json!({"prompt": "p", "completion": "c", key: "x"}));
            assert!(fault.starts_with(&format!("`{key}` is not read beside `prompt`")), "{fault}");
        }
        for key in ["system", "prompt", "tools"] {
            assert!(refused(json!({"text": "t", key: "x"})).starts_with(&format!("`{key}`")));
        }
        for key in ["prompt", "completion"] {
            assert!(refused(json!({"instruction": "i", "output": "o", key: "x"})).starts_with(&format!("`{key}`")));
        }
        let nothing = json!({"prompt": "p", "completion": "c", "input": " ", "history": [], "context": ""});
        assert!(Example::from_value(nothing).is_ok());
    }

    #[test]
    fn keys_that_nothing_reads_are_told() {
        let row = json!({"id": 7, "messages": [], "source": "x", "gone": null});
        assert_eq!(unread(&row).collect::<Vec<_>>(), ["id", "source"]);
    }
}
