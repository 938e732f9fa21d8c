use super::*;

fn assistant(rest: Value) -> Result<Value, String> {
    let mut message = json!({"role": "assistant"});
    if let (Some(object), Value::Object(rest)) = (message.as_object_mut(), rest) {
        object.extend(rest);
    }
    normal_message(message)
}

#[test]
fn every_way_of_writing_nothing_gives_the_same_message() {
    let plain = assistant(json!({"content": "a"})).expect("a message");
    for nothing in [
        json!({"tool_calls": []}),
        json!({"tool_calls": null}),
        json!({"tool_calls": ""}),
        json!({"weight": null, "name": null, "reasoning_content": null}),
        json!({"reasoning_content": "", "tool_calls": " "}),
        json!({"thinking": "\n"}),
        json!({"weight": 1.0, "refusal": null, "function_call": null, "audio": null}),
    ] {
        let mut rest = json!({"content": "a"});
        rest.as_object_mut()
            .expect("an object")
            .extend(nothing.as_object().expect("an object").clone());
        assert_eq!(assistant(rest).as_ref(), Ok(&plain), "{nothing}");
    }
    for content in [
        json!(null),
        json!(""),
        json!([]),
        json!([{"type": "text", "text": ""}]),
    ] {
        for (role, wanted) in [
            ("tool", true),
            ("system", true),
            ("user", false),
            ("assistant", false),
        ] {
            let absent = normal_message(json!({"role": role}));
            let message =
                normal_message(json!({"role": role, "content": content, "tool_call_id": ""}));
            assert_eq!(message, absent, "{role} {content}");
            assert_eq!(message.is_ok(), wanted, "{role} {content}");
        }
    }
    assert!(
        normal_message(json!({"role": "tool", "output": "4"}))
            .expect_err("a fault")
            .contains("`output`")
    );
    let wanted = json!({"type": "function", "function": {"name": "f", "arguments": {}}});
    for call in [
        json!({"name": "f"}),
        json!({"name": "f", "arguments": null}),
        json!({"name": "f", "arguments": ""}),
        json!({"type": "function", "function": {"name": "f", "arguments": "{}"}, "id": null}),
        json!({"function": {"name": "f", "arguments": "null"}}),
    ] {
        let message = assistant(json!({"content": [], "tool_calls": [call]})).expect("a message");
        assert_eq!(message["tool_calls"][0], wanted);
    }
}

#[test]
fn a_template_is_given_the_content_that_an_answer_has() {
    for (content, called, plain) in [
        (None, Some(None), None),
        (Some(json!(null)), Some(Some(json!(null))), None),
        (Some(json!("")), Some(Some(json!(""))), None),
        (Some(json!([])), Some(Some(json!(""))), None),
        (
            Some(json!(" a\n")),
            Some(Some(json!(" a\n"))),
            Some(Some(json!(" a\n"))),
        ),
    ] {
        for (calls, wanted) in [(true, called), (false, plain)] {
            let mut message = Map::new();
            message.extend(
                content
                    .clone()
                    .map(|content| ("content".to_owned(), content)),
            );
            message.extend(calls.then(|| ("tool_calls".to_owned(), json!([{"name": "f"}]))));
            let read = assistant(Value::Object(message))
                .ok()
                .map(|message| message.get("content").cloned());
            assert_eq!(read, wanted, "{content:?}, calls: {calls}");
        }
    }
}

#[test]
fn content_is_text_or_refused_by_name() {
    let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]);
    assert_eq!(
        assistant(json!({"content": parts})).expect("a message")["content"],
        "a b"
    );
    for (content, named) in [
        (json!(2), "2"),
        (json!(true), "true"),
        (json!({"stone": "lower"}), "stone"),
        (
            json!([{"type": "image_url", "image_url": "x"}]),
            "`image_url`",
        ),
        (json!(["a"]), "\"a\""),
        (json!([{"type": "text"}]), "without a `text`"),
        (
            json!([{"type": "text", "text": "a", "train": false}]),
            "`train`",
        ),
        (json!(""), "empty answer"),
        (json!(" \n"), "empty answer"),
    ] {
        let fault = assistant(json!({"content": content})).expect_err("a fault");
        assert!(fault.contains(named), "{fault}");
    }
}

#[test]
fn keys_that_mean_something_are_carried_out_or_refused() {
    assert!(!is_trained_on(
        &assistant(json!({"content": "a", "weight": 0})).expect("a message")
    ));
    let thought = assistant(json!({"content": "a", "thinking": "t"})).expect("a message");
    assert_eq!(thought["reasoning_content"], "t");
    for (rest, named) in [
        (json!({"content": "a", "weight": 0.5}), "0.5"),
        (json!({"content": "a", "train": false}), "`train`"),
        (
            json!({"content": "a", "is_trainable": false}),
            "`is_trainable`",
        ),
        (
            json!({"content": "a", "context_only": true}),
            "`context_only`",
        ),
        (json!({"content": "a", "lossWeight": 0.5}), "`lossWeight`"),
        (
            json!({"content": "a", "train_detail": [{"begin_offset": 0}]}),
            "`train_detail`",
        ),
        (
            json!({"content": "a", "tool_calls": [{"name": "f", "id": 7}]}),
            "`id`",
        ),
        (json!({"content": "a", "prefix": true}), "`prefix`"),
        (
            json!({"content": null, "function_call": {"name": "f", "arguments": "{}"}}),
            "`function_call`",
        ),
        (
            json!({"tool_calls": [{"name": "f", "parameters": {"x": 1}}]}),
            "`parameters`",
        ),
        (
            json!({"tool_calls": [{"type": "custom", "function": {"name": "f"}}]}),
            "custom",
        ),
        (
            json!({"tool_calls": [{"name": "f", "arguments": "{\"a\": 1, \"a\": 2}"}]}),
            "`a` stands twice",
        ),
        (
            json!({"tool_calls": [{"name": "f", "arguments": [1]}]}),
            "`arguments`",
        ),
        (
            json!({"content": "a", "thinking": "t", "reasoning_content": "u"}),
            "`thinking`",
        ),
    ] {
        let fault = assistant(rest).expect_err("a fault");
        assert!(fault.contains(named), "{fault}");
    }
    assert_eq!(
        assistant(json!({"content": "a", "no_loss": false})),
        assistant(json!({"content": "a"}))
    );
    let user = |rest: &str| normal_message(serde_json::from_str(rest).expect("JSON"));
    assert!(user(r#"{"role": "user", "content": "q", "weight": 1}"#).is_err());
    assert!(user(r#"{"role": "user", "content": "q", "train": true}"#).is_err());
    assert!(user(r#"{"role": "user", "content": "q", "train": false}"#).is_ok());
    assert!(user(r#"{"role": "user", "content": "q", "tool_calls": [{"name": "f"}]}"#).is_err());
    assert_eq!(
        user(r#"{"role": "user", "content": "q", "weight": 0}"#),
        Ok(json!({"role": "user", "content": "q"}))
    );
}
