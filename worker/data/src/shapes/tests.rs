use super::*;
use crate::{Conversation, Example};

fn roles(row: Value) -> Vec<(String, Value)> {
    let conversation = Conversation::from_value(row).expect("a conversation");
    let pair = |m: &Value| {
        (
            m["role"].as_str().unwrap_or_default().to_owned(),
            m["content"].clone(),
        )
    };
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
    assert_eq!(
        conversation.messages[2]["tool_calls"][0]["function"]["arguments"]["x"],
        1
    );
    assert_eq!(conversation.messages[4]["weight"], 0, "keys of a turn stay");
    let order: Vec<_> = roles(row).into_iter().map(|(role, _)| role).collect();
    assert_eq!(order, ["system", "user", "assistant", "tool", "assistant"]);
}

#[test]
fn alpaca_rows_join_instruction_and_input() {
    let plain = roles(json!({"instruction": "i", "input": "", "output": "o"}));
    assert_eq!(
        plain,
        [
            ("user".into(), json!("i")),
            ("assistant".into(), json!("o"))
        ]
    );
    let whole = roles(
        json!({"instruction": "i", "input": "x", "output": "o", "history": [["a", "b"]], "system": "s"}),
    );
    assert_eq!(whole[0], ("system".into(), json!("s")));
    assert_eq!(whole[3], ("user".into(), json!("i\n\nx")));
    assert_eq!(whole[2], ("assistant".into(), json!("b")));
}

#[test]
fn prompts_and_completions_may_be_texts_or_messages() {
    let row = json!({"prompt": [{"role": "user", "content": "p"}], "completion": "c"});
    assert_eq!(
        roles(row),
        [
            ("user".into(), json!("p")),
            ("assistant".into(), json!("c"))
        ]
    );
}

#[test]
fn nothing_is_no_shape_of_its_own() {
    let text =
        json!({"messages": null, "conversations": null, "prompt": "", "text": "t", "label": 3});
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
        (
            json!({"prompt": "", "completion": "c"}),
            RowError::EmptyKey("prompt"),
        ),
        (
            json!({"instruction": "", "output": "o"}),
            RowError::EmptyKey("instruction"),
        ),
        (
            json!({"instruction": "i", "output": null}),
            RowError::EmptyKey("output"),
        ),
        (
            json!({"messages": null, "id": 1}),
            RowError::EmptyKey("messages"),
        ),
        (
            json!({"conversations": null, "prompt": []}),
            RowError::EmptyKey("conversations"),
        ),
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
        (
            json!({"conversations": [{"from": "gpt", "value": "a"}]}),
            "`conversations`",
        ),
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
        row.as_object_mut()
            .expect("a row")
            .extend(rest.as_object().expect("keys").clone());
        let fault = Example::from_value(row).expect_err("a fault").to_string();
        assert!(fault.contains(named), "{fault}");
    }
    let twice = json!({"system": "s", "messages": [{"role": "system", "content": "t"}, {"role": "assistant", "content": "a"}]});
    assert!(
        Example::from_value(twice)
            .expect_err("a fault")
            .to_string()
            .contains("`system`")
    );
    let usual = json!({"messages": messages, "weight": 1.0, "train": true, "ignore": false, "loss_mask": null});
    assert!(Example::from_value(usual).is_ok());
    let bad = json!({"prompt": "p", "completion": "c", "label": false});
    assert!(
        Example::from_value(bad)
            .expect_err("a fault")
            .to_string()
            .contains("`label`")
    );
    for row in [
        json!({"instruction": "i", "output": "o", "input": 3}),
        json!({"instruction": "i", "output": "o", "history": [["a"]]}),
        json!({"messages": "text"}),
        json!({"prompt": 3, "completion": "c"}),
    ] {
        assert!(matches!(
            Example::from_value(row),
            Err(RowError::Key { .. })
        ));
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
        assert!(
            fault.starts_with(&format!("`{key}` is not read beside `prompt`")),
            "{fault}"
        );
    }
    for key in ["system", "prompt", "tools"] {
        assert!(refused(json!({"text": "t", key: "x"})).starts_with(&format!("`{key}`")));
    }
    for key in ["prompt", "completion"] {
        assert!(
            refused(json!({"instruction": "i", "output": "o", key: "x"}))
                .starts_with(&format!("`{key}`"))
        );
    }
    let nothing =
        json!({"prompt": "p", "completion": "c", "input": " ", "history": [], "context": ""});
    assert!(Example::from_value(nothing).is_ok());
}

#[test]
fn keys_that_nothing_reads_are_told() {
    let row = json!({"id": 7, "messages": [], "source": "x", "gone": null});
    assert_eq!(unread(&row).collect::<Vec<_>>(), ["id", "source"]);
}
