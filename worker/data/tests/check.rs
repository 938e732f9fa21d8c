//! What the check finds: every fault of a kind, named by its path.

use qlora_data::check::check;
use qlora_data::{Conversation, Example};
use serde_json::{Value, json};

/// A conversation in which `f`, with `parameters`, is called with `arguments`.
fn called(parameters: Value, arguments: Value) -> Conversation {
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}
    ], "tools": [{"name": "f", "parameters": parameters}]});
    Conversation::from_value(row).expect("a conversation")
}

fn findings(conversation: &Conversation) -> Vec<String> {
    check(conversation)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn findings_name_the_whole_path() {
    let inner = json!({"type": "object", "properties": {"city": {"type": "string"}, "a/b": {"type": "integer"}, "t~": {"type": "null"}},
        "required": ["city"], "additionalProperties": false});
    let parameters = json!({"type": "object", "properties": {"to": inner, "list": {"type": "array", "items": inner}}});
    for (arguments, wanted) in [
        (
            json!({"to": {"city": "x", "color": 1}}),
            "unknown parameter 'to.color'",
        ),
        (json!({"to": {}}), "parameter 'to.city' is missing"),
        (json!({"to": {"city": null}}), "parameter 'to.city' is null"),
        (
            json!({"to": {"city": "x", "a/b": "y"}}),
            "parameter 'to.a/b' is \"y\"",
        ),
        (
            json!({"to": {"city": "x", "t~": 1}}),
            "parameter 'to.t~' is 1",
        ),
        (
            json!({"list": [{"city": "x"}, {"city": 2}]}),
            "parameter 'list.1.city' is 2",
        ),
        (
            json!({"list": [{"city": "x", "z": 2, "y": 1}]}),
            "unknown parameter 'list.0.z', 'list.0.y'",
        ),
    ] {
        let found = findings(&called(parameters.clone(), arguments.clone()));
        assert!(
            found.len() == 1 && found[0].contains(wanted),
            "{arguments}: {found:?}"
        );
    }
    assert!(findings(&called(parameters, json!({"to": {"city": "x"}}))).is_empty());
}

#[test]
fn nullable_is_carried_out() {
    let schema = json!({"type": "object", "properties": {
        "note": {"type": "string", "nullable": true}, "kind": {"enum": ["a"], "nullable": true},
        "list": {"type": "array", "items": {"type": "integer", "nullable": true}},
    }});
    assert!(
        findings(&called(
            schema.clone(),
            json!({"note": null, "kind": null, "list": [1, null]})
        ))
        .is_empty()
    );
    assert_eq!(
        findings(&called(schema.clone(), json!({"note": 1}))).len(),
        1
    );
    assert_eq!(findings(&called(schema, json!({"list": ["x"]}))).len(), 1);
}

#[test]
fn properties_may_have_the_names_of_keywords() {
    let words = [
        "default",
        "nullable",
        "enum",
        "const",
        "examples",
        "items",
        "type",
        "properties",
        "$ref",
        "required",
    ];
    for word in words {
        let schema = json!({"type": "object", "properties": {word: {"type": "string", "nullable": true}},
            "additionalProperties": false});
        assert!(
            findings(&called(schema.clone(), json!({word: "x"}))).is_empty(),
            "{word}"
        );
        assert!(
            findings(&called(schema.clone(), json!({word: null}))).is_empty(),
            "{word}"
        );
        assert_eq!(
            findings(&called(schema, json!({word: 3}))).len(),
            1,
            "{word}"
        );
    }
}

#[test]
fn nullable_moves_no_schema_that_others_refer_to() {
    let schema = json!({"type": "object", "properties": {
        "first": {"type": "object", "nullable": true, "properties": {"n": {"type": "integer"}}},
        "n": {"$ref": "#/properties/first/properties/n"},
        "same": {"$ref": "#/$defs/a%20b", "nullable": true},
        "slash": {"$ref": "#/$defs/c~1d~0e"},
        "either": {"oneOf": [{"type": "integer"}, {"type": "boolean"}], "nullable": true},
        "only": {"const": 7, "nullable": true},
        "free": true,
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string", "nullable": true}], "items": false},
    }, "$defs": {"a b": {"type": "integer"}, "c/d~e": {"type": "boolean"}}});
    let right = json!({"first": {"n": 1}, "n": 2, "same": 3, "slash": true, "either": 4, "only": 7, "free": [1], "pair": [1, null]});
    assert!(findings(&called(schema.clone(), right)).is_empty());
    assert!(
        findings(&called(
            schema.clone(),
            json!({"first": null, "same": null, "either": null, "only": null})
        ))
        .is_empty()
    );
    for wrong in [
        json!({"first": {"n": "x"}}),
        json!({"n": "x"}),
        json!({"same": "x"}),
        json!({"slash": 3}),
        json!({"either": "x"}),
        json!({"only": 8}),
        json!({"pair": [1, 2]}),
        json!({"pair": [1, "a", 2]}),
    ] {
        assert_eq!(
            findings(&called(schema.clone(), wrong.clone())).len(),
            1,
            "{wrong}"
        );
    }
}

#[test]
fn a_schema_that_says_nothing_is_a_finding() {
    for (parameters, named) in [
        (
            json!({"mesh": {"type": "integer"}}),
            "`mesh` of its parameters is no keyword",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "b": {"type": "string"}}}}),
            "`b` of its parameters.a",
        ),
        (json!({"type": "array", "items": {}}), "of type \"array\""),
        (
            json!({"city": "the name of the city", "days": "how many"}),
            "`city`, `days`, no keywords",
        ),
        (
            json!({"type": "object", "city": "the name of the city"}),
            "`city`, no keywords",
        ),
        (
            json!({"name": "the name of the user", "title": "their title"}),
            "only `name`, `title`",
        ),
        (
            json!({"name": {"type": "string"}}),
            "`name` of its parameters is a keyword of JSON Schema that takes no object",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "str"}}}),
            "\"str\" of its parameters.a is no type",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": ["int", "null"]}}}),
            "is no type",
        ),
        (
            json!({"type": "dict", "properties": {}}),
            "\"dict\" of its parameters is no type",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "max_length": 3}}}),
            "write `maxLength`",
        ),
        (
            json!({"type": "object", "properties": {"a": {"items": [{"type": "integer"}]}}}),
            "write `prefixItems`",
        ),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
            "properties": {"a": {"prefixItems": [{"type": "integer"}]}}}),
            "not in the draft",
        ),
        (json!(true), "its parameters are true"),
        (
            json!([{"name": "city", "type": "string"}]),
            "write a schema of type object",
        ),
        (
            json!({"properties": {"to": {"$ref": "#/$defs/a%20b"}}}),
            "leads nowhere",
        ),
        (
            json!({"properties": {"to": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}),
            "`#/$defs/A` of its parameters.to leads back",
        ),
        (
            json!({"properties": {"to": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}}),
            "leads back",
        ),
        (json!({"$ref": "#"}), "leads back"),
        (
            json!({"properties": {"to": {"$ref": "#/$defs/none"}}}),
            "leads nowhere",
        ),
        (
            json!({"properties": {"to": {"$ref": "https://example.com/a.json"}}}),
            "leads out",
        ),
    ] {
        let found = findings(&called(parameters.clone(), json!({})));
        assert!(
            found.iter().any(|finding| finding.contains(named)),
            "{parameters}: {found:?}"
        );
    }
    // A list of its own kind ends with its items.
    let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "x-note": {"a": 1}});
    assert!(
        findings(&called(
            tree.clone(),
            json!({"children": [{"children": []}]})
        ))
        .is_empty()
    );
    assert_eq!(
        findings(&called(tree, json!({"children": [{"children": 3}]}))).len(),
        1
    );
}

#[test]
fn tools_are_defined_once_and_under_names_that_are_read() {
    let row = |tools: Value| {
        let row = json!({"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
        ], "tools": tools});
        findings(&Conversation::from_value(row).expect("a conversation"))
    };
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer", "maximum": 0}}});
    assert!(
        row(json!([{"name": "f"}, {"name": "f"}]))
            .iter()
            .any(|f| f == "tool `f`: it is defined twice")
    );
    assert!(
        row(json!([{"name": "f", "arguments_schema": schema}]))
            .iter()
            .any(|f| f.contains("`arguments_schema` is not read"))
    );
    for key in [
        "parameters",
        "input_schema",
        "inputSchema",
        "parametersJsonSchema",
    ] {
        assert!(
            row(json!([{"name": "f", key: schema}]))
                .iter()
                .any(|f| f.contains("above the maximum 0")),
            "{key}"
        );
    }
    assert!(row(json!([{"name": "f", "response": {"type": "object"}}])).is_empty());
    for (key, value) in [
        ("required", json!(["y"])),
        ("properties", json!({"y": {"type": "string"}})),
        ("$defs", json!({"a": {}})),
    ] {
        for tool in [
            json!({"name": "f", key: value}),
            json!({"name": "f", "parameters": {"type": "object"}, key: value}),
        ] {
            let found = row(json!([tool]));
            assert!(
                found.len() == 1 && found[0].contains(&format!("`{key}` stands beside")),
                "{found:?}"
            );
        }
    }
    assert!(
        row(json!([{"name": "f", "parameters": {"type": "object"}, "required": null}])).is_empty()
    );
}

#[test]
fn results_answer_the_calls_before_them() {
    let row = |ids: &[&str], results: &[&str]| {
        let calls: Vec<Value> = ids
            .iter()
            .map(|id| json!({"id": id, "name": "f"}))
            .collect();
        let mut messages = vec![
            json!({"role": "user", "content": "q"}),
            json!({"role": "assistant", "tool_calls": calls}),
        ];
        messages.extend(
            results
                .iter()
                .map(|id| json!({"role": "tool", "content": "r", "tool_call_id": id})),
        );
        messages.push(json!({"role": "assistant", "content": "a"}));
        findings(
            &Conversation::from_value(json!({"messages": messages, "tools": [{"name": "f"}]}))
                .expect("a conversation"),
        )
    };
    assert!(row(&["a", "b"], &["b", "a"]).is_empty());
    assert!(
        row(&[""], &["z"]).is_empty(),
        "a call without an id is answered by any"
    );
    assert!(row(&["a", ""], &["z", "a"]).is_empty());
    assert_eq!(row(&["a", ""], &["y", "z"]).len(), 1);
    assert_eq!(
        row(&["a"], &["z"]),
        ["message 2: the result's `tool_call_id` `z` is that of no call before it"]
    );
    assert_eq!(
        row(&["a"], &["a", "a"]),
        ["message 3: a tool result without a call before it"]
    );
    assert_eq!(
        row(&["a", "a"], &["a", "a"]),
        ["message 1: two of its calls have the id `a`"]
    );
}

#[test]
fn rows_of_any_form_become_one() {
    let wrapped =
        json!({"type": "function", "function": {"name": "grind", "arguments": {"grain": "rye"}}});
    let bare = json!({"name": "grind", "arguments": "{\"grain\": \"rye\", \"miller\": null}"});
    let tool = json!({"name": "grind", "parameters": {"type": "object", "properties": {"grain": {"type": "string"}, "miller": null}}});
    let whole = json!({"type": "function", "function": {"name": "grind", "parameters": {"type": "object", "properties": {"grain": {"type": "string"}}}}});
    let row = |call: &Value, tool: &Value| {
        let row = json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Grind."}]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ], "tools": [tool]});
        match Example::from_value(row) {
            Ok(Example::Chat(conversation)) => conversation,
            other => panic!("{other:?}"),
        }
    };
    let wanted = row(&wrapped, &whole);
    assert_eq!(wanted.messages[1]["tool_calls"][0], wrapped);
    for (call, tool) in [(&bare, &tool), (&bare, &whole), (&wrapped, &tool)] {
        assert_eq!(row(call, tool), wanted);
        assert!(findings(&row(call, tool)).is_empty());
    }
}

#[test]
fn rows_of_strangers_are_read_or_refused_by_name() {
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let content = |content: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": {content}}}, {{\"role\": \"assistant\", \"content\": \"a\"}}]}}"
        )
    };
    for (row, named) in [
        (content(r#"[{"type": "image_url", "image_url": {"url": "x"}}]"#), "`image_url`"),
        (content(r#"[{"type": "tool_result", "tool_use_id": "t", "content": "4"}]"#), "`tool_result`"),
        (content(r#"[{"type": "text", "text": "q", "loss": 0}]"#), "`loss`"),
        (content(r#""\ud800""#), "lone surrogate"),
        (content("1e400"), "out of range"),
        (content("123456789012345678901234567890"), "123456789012345678901234567890"),
        (content(r#""q", "content": "r""#), "`content` stands twice"),
        (content("NaN"), "not JSON"),
        (content("null"), "message 0 has no text"),
        (content("[]"), "message 0 has no text"),
        (deep, "recursion"),
        (r#"{"chat": "USER: q ASSISTANT: a", "system": "s"}"#.into(), "neither `messages`"),
        (r#"{"query": "q", "answers": "[]", "tools": "[]"}"#.into(), "neither `messages`"),
        (r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "bing", "value": "a"}]}"#.into(), "`bing`"),
        (r#"{"messages": [{"role": "function", "name": "f", "content": "4"}]}"#.into(), "`function`"),
        (
            r#"{"messages": [{"role": "user", "parts": ["q"]}, {"role": "assistant", "content": "a"}]}"#.into(),
            "`parts`",
        ),
    ] {
        let fault = Conversation::parse(&row).expect_err(&row).to_string();
        assert!(fault.contains(named), "{row}: {fault}");
    }
    let long = "x".repeat(1 << 20);
    for row in [
        content(&format!("\"{long}\"")),
        content(r#""\ud83d\ude00 \u0000""#),
        content(r#"[{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]"#),
        r#"{"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "<tool_call>{}</tool_call>"}]}"#.into(),
    ] {
        assert!(Conversation::parse(&row).is_ok(), "{:.200}", row);
    }
}

/// Each of `length` schemas refers twice to the next in the ways of `keyword`.
fn doubling(keyword: &str, length: usize) -> Value {
    let mut definitions = serde_json::Map::new();
    for at in 0..length {
        let next = json!({"$ref": format!("#/$defs/d{}", at + 1)});
        definitions.insert(format!("d{at}"), json!({keyword: [next, next]}));
    }
    definitions.insert(format!("d{length}"), json!({"type": "string"}));
    json!({"$defs": definitions, "type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}})
}

#[test]
fn references_that_multiply_are_refused_by_name_and_take_no_time() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let found = findings(&called(doubling(keyword, 60), json!({"a": "x"})));
        assert!(
            found.len() == 1 && found[0].starts_with("tool `f`: a value is held against more than"),
            "{keyword}: {found:?}"
        );
    }
    for keyword in ["allOf", "anyOf"] {
        let few = doubling(keyword, 4);
        assert_eq!(
            findings(&called(few.clone(), json!({"a": "x"}))),
            [""; 0],
            "{keyword}"
        );
        assert!(!findings(&called(few, json!({"a": 1}))).is_empty());
    }
    let names = |at: usize| json!({"$ref": format!("#/$defs/d{at}")});
    let mut definitions: serde_json::Map<String, Value> = (0..60)
        .map(|at| {
            let twice = json!({"allOf": [names(at + 1), names(at + 1)]});
            (format!("d{at}"), json!({"dependencies": {"a": twice}}))
        })
        .collect();
    definitions.insert("d60".into(), json!({"type": "object"}));
    let dependent = json!({"$defs": definitions, "type": "object", "allOf": [names(0)]});
    let found = findings(&called(dependent, json!({"a": 1})));
    assert!(
        found.len() == 1 && found[0].starts_with("tool `f`: a value is held against more than"),
        "{found:?}"
    );
    // Here the arguments make them many.
    let node = json!({"$ref": "#"});
    let tree = json!({"type": "object", "properties": {"a": {"allOf": [node, node]}}});
    let deep = |depth| (0..depth).fold(json!({}), |inner, _| json!({"a": inner}));
    assert_eq!(findings(&called(tree.clone(), deep(5))), [""; 0]);
    let found = findings(&called(tree, deep(40)));
    assert!(
        found.len() == 1 && found[0].contains("the arguments are held against more than"),
        "{found:?}"
    );
}

#[test]
fn references_by_names_are_followed_or_told() {
    let draft = "http://json-schema.org/draft-07/schema#";
    let anchored = json!({"$schema": draft, "type": "object", "properties": {"a": {"$ref": "#n"}},
        "definitions": {"n": {"$id": "#n", "type": "integer"}}});
    assert_eq!(
        findings(&called(anchored.clone(), json!({"a": 1}))),
        [""; 0]
    );
    assert_eq!(findings(&called(anchored, json!({"a": "x"}))).len(), 1);
    // Relative to a name within the schema, the reference leads elsewhere.
    let inner = json!({"$id": "https://example.com/b", "$ref": "#/$defs/c", "$defs": {"c": {"type": "integer"}}});
    let relative =
        json!({"type": "object", "properties": {"a": inner}, "$defs": {"c": {"type": "string"}}});
    let found = findings(&called(relative, json!({"a": "x"})));
    assert!(
        found.len() == 1 && found[0].contains("`#/$defs/c` of its parameters is not followed"),
        "{found:?}"
    );
}

#[test]
fn keywords_that_are_spelled_nearly_right_are_named_with_the_right_word() {
    for (word, value, meant) in [
        ("requird", json!(["a"]), "required"),
        ("descripton", json!("x"), "description"),
        ("maxLenght", json!(3), "maxLength"),
        ("min_imum", json!(3), "minimum"),
        ("enums", json!(["a"]), "enum"),
        ("patern", json!("a"), "pattern"),
        ("additionalPropertys", json!(false), "additionalProperties"),
    ] {
        for schema in [
            json!({"type": "object", "properties": {"a": {"type": "string", word: value}}}),
            json!({"type": "object", "properties": {"a": {"type": "string"}}, word: value}),
        ] {
            let found = findings(&called(schema, json!({"a": "a"})));
            let wanted = format!("no keyword of JSON Schema; write `{meant}`");
            assert!(
                found.iter().any(|finding| finding.contains(&wanted)),
                "{word}: {found:?}"
            );
        }
    }
    for word in [
        "unit",
        "note",
        "comments",
        "location",
        "placeholder",
        "ui_order",
    ] {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", word: "x"}}});
        assert_eq!(
            findings(&called(schema, json!({"a": "a"}))),
            [""; 0],
            "{word}"
        );
    }
}
