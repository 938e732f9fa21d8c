//! Expressions of templates as Python's Jinja2 has them, and what a template may ask of a
//! conversation.

use qlora_data::{ChatTemplate, Conversation, SpecialTokens, TemplateError};
use serde_json::{Value, json};

fn conversation() -> Conversation {
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": "é\"", "x": 1.5e-7}}});
    let messages = vec![
        json!({"role": "user", "content": "q"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
    ];
    Conversation {
        messages,
        tools: Vec::new(),
    }
}

fn rendered(source: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source, SpecialTokens::default())
        .and_then(|template| template.text(&conversation(), false))
}

#[test]
fn expressions_are_what_they_are_in_python() {
    for (expression, wanted) in [
        (
            "[none is iterable, tools is iterable, nope is iterable, 'a' is iterable]",
            "[False, False, True, True]",
        ),
        (
            "[none is sequence, {} is sequence, 'a' is sequence, 1 is sequence]",
            "[False, True, True, False]",
        ),
        (
            "tools is none and documents is none and tools is defined",
            "True",
        ),
        ("nope | length", "0"),
        (
            "messages[1].tool_calls[0].function.arguments | tojson",
            r#"{"b": 1, "a": "é\"", "x": 1.5e-07}"#,
        ),
        (
            "messages[1].tool_calls[0].function.arguments | tojson(separators=(',', ':'))",
            r#"{"b":1,"a":"é\"","x":1.5e-07}"#,
        ),
        (
            "messages[1].tool_calls[0].function.arguments | tojson(sort_keys=true)",
            r#"{"a": "é\"", "b": 1, "x": 1.5e-07}"#,
        ),
        (
            "'é\u{1F600}' | tojson(ensure_ascii=true)",
            r#""\u00e9\ud83d\ude00""#,
        ),
        ("[1, {}] | tojson(false, 2)", "[\n  1,\n  {}\n]"),
        ("[1, 2] | tojson(indent='-')", "[\n-1,\n-2\n]"),
        (
            "{'a': 1, 2: [none, true]} | tojson",
            r#"{"a": 1, "2": [null, true]}"#,
        ),
        ("1e16", "1e+16"),
        ("0.00001", "1e-05"),
        (
            "'yes' if messages | selectattr('role', 'equalto', 'nobody') else 'no'",
            "yes",
        ),
        (
            "messages | map(attribute='role') | join('-')",
            "user-assistant",
        ),
        ("none | selectattr('x') | list", "[]"),
        ("'' | default('d', boolean=true)", "d"),
        ("'a,b,c'.rsplit(',', 1) | join('|')", "a,b|c"),
        ("'xay'.removeprefix('x').removesuffix('y').zfill(3)", "00a"),
        ("'<b>' | safe + '\"'", "<b>&#34;"),
    ] {
        assert_eq!(
            rendered(&format!("{{{{ {expression} }}}}")).expect(expression),
            wanted,
            "{expression}"
        );
    }
}

#[test]
fn what_python_refuses_is_refused() {
    for source in [
        "{% for x in tools %}{% endfor %}",
        "{% for x in messages[1].content if x %}{% endfor %}",
        "{{ nope | tojson }}",
        "{{ [1, nope] | tojson }}",
        "{{ messages | map(attribute='role') | tojson }}",
        "{{ messages | selectattr('role') | length }}",
        "{{ 1 | tojson(wrong=1) }}",
        "{{ none | list }}",
        "{{ none | length }}",
        "{{ 'a'.index('b') }}",
        "{{ strftime_now('%Q') }}",
    ] {
        assert!(
            matches!(
                rendered(source),
                Err(TemplateError::Refused(_) | TemplateError::Calls(_))
            ),
            "{source}"
        );
    }
}

const IDS: &str = "{% for m in messages %}{{ m.role }}{% for c in m.tool_calls or [] %}{% if not c.id or c.id | length != 9 %}{{ raise_exception('ids of nine characters') }}{% endif %}#{{ c.id }}{% endfor %}{% if m.role == 'tool' %}={{ m.tool_call_id }}{% endif %} {% endfor %}";

fn called(ids: [Value; 2], results: [Value; 2]) -> Conversation {
    let call = |id: &Value| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": {}}});
    let answer = |id: &Value| json!({"role": "tool", "content": "r", "tool_call_id": id});
    let row = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [call(&ids[0]), call(&ids[1])]},
        answer(&results[0]), answer(&results[1]), {"role": "assistant", "content": "a"}
    ]});
    Conversation::from_value(row).expect("a conversation")
}

#[test]
fn ids_are_made_up_alike_where_the_row_gives_none() {
    let template = ChatTemplate::new(IDS, SpecialTokens::default()).expect("a template");
    let text = |ids, results| template.text(&called(ids, results), false);
    let none = || [Value::Null, Value::Null];
    let wanted = "user assistant#call00001#call00002 tool=call00001 tool=call00002 assistant ";
    assert_eq!(text(none(), none()).expect("text"), wanted);
    assert_eq!(text(none(), none()).expect("text"), wanted);
    let wanted = "user assistant#aaaaaaaa1#aaaaaaaa2 tool=aaaaaaaa1 tool=aaaaaaaa2 assistant ";
    assert_eq!(
        text(none(), [json!("aaaaaaaa1"), json!("aaaaaaaa2")]).expect("text"),
        wanted,
        "ids of results"
    );
    let wanted = "user assistant#aaaaaaaa1#aaaaaaaa2 tool=aaaaaaaa2 tool=aaaaaaaa1 assistant ";
    let half = [json!(""), json!("aaaaaaaa2")];
    assert_eq!(
        text(half, [json!("aaaaaaaa2"), json!("aaaaaaaa1")]).expect("text"),
        wanted,
        "one id of two"
    );
    let wanted = "user assistant#call00002#call00001 tool=call00002 tool=call00001 assistant ";
    assert_eq!(
        text([Value::Null, json!("call00001")], none()).expect("text"),
        wanted,
        "no id is made twice"
    );
    let own = || [json!("aaaaaaaa1"), json!("aaaaaaaa2")];
    let swapped = [json!("aaaaaaaa2"), json!("aaaaaaaa1")];
    let wanted = "user assistant#aaaaaaaa1#aaaaaaaa2 tool=aaaaaaaa2 tool=aaaaaaaa1 assistant ";
    assert_eq!(text(own(), swapped).expect("text"), wanted);
    let long = [json!("call_0123456789"), json!("aaaaaaaa2")];
    assert!(
        text(long, none())
            .expect_err("a long id")
            .to_string()
            .contains("ids of nine characters")
    );
}

#[test]
fn a_template_that_joins_arguments_to_text_is_named() {
    let source = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ 'call ' + c.function.arguments }}{% endfor %}{% endfor %}";
    let fault = rendered(source).expect_err("a fault");
    assert!(matches!(fault, TemplateError::TextArguments), "{fault}");
    assert!(fault.to_string().contains("chatml-tools"));
}

#[test]
fn a_template_that_does_not_foresee_calls_is_said_to_lack_them() {
    let fault = |source: &str| {
        let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
        let none = || [Value::Null, Value::Null];
        template
            .text(&called(none(), none()), false)
            .expect_err("a fault")
    };
    for (source, cause) in [
        (
            "{% for m in messages %}{{ m.role + m.content }}{% endfor %}",
            "unsupported types",
        ),
        (
            "{% for m in messages %}{{ m.role }}{{ m.content.strip() }}{% endfor %}",
            "has no method named strip",
        ),
    ] {
        let fault = fault(source);
        assert!(matches!(fault, TemplateError::Calls(_)), "{fault}");
        let said = fault.to_string();
        assert!(
            said.contains("chatml-tools") && said.contains(cause),
            "{said}"
        );
    }
    // What we lack is no fault of the template.
    for lacking in ["m.role | nosuch", "m.role.nosuch()", "nosuch(m.role)"] {
        let source = format!(
            "{{% for m in messages %}}{{% if m.tool_calls %}}{{{{ {lacking} }}}}{{% endif %}}{{% endfor %}}"
        );
        let said = fault(&source);
        assert!(matches!(said, TemplateError::Refused(_)), "{said}");
        assert!(said.to_string().contains("nosuch"), "{said}");
    }
    let said = fault(
        "{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('one call alone') }}{% endif %}{% endfor %}",
    );
    assert!(said.to_string().contains("one call alone"), "{said}");
    // The calls are not what it does not take.
    let said = fault("{% for m in messages %}{{ m.role + 1 }}{% endfor %}");
    assert!(matches!(said, TemplateError::Refused(_)), "{said}");
}

#[test]
fn the_datas_own_private_characters_stay_and_move_no_mask() {
    let marked = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let bare = marked
        .replace("{% generation %}", "")
        .replace("{% endgeneration %}", "");
    for private in [
        "\u{F0001}",
        "\u{F0002}",
        "\u{F0003}",
        "\u{F0001}\u{F0004}\u{F0002}\u{F0003}",
    ] {
        let row = json!({"messages": [
            {"role": "user", "content": format!("a{private} secret {private}b")},
            {"role": "assistant", "content": format!("x{private}y")}
        ]});
        let conversation = Conversation::from_value(row).expect("a conversation");
        for source in [marked, &bare] {
            let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
            let rendered = template.render(&conversation).expect("text");
            let wanted =
                format!("user: a{private} secret {private}b\nassistant: x{private}y</s>\n");
            assert_eq!(rendered.text, wanted);
            let text = template.text(&conversation, false).expect("text");
            assert_eq!(text, wanted);
            let parts: Vec<&str> = rendered
                .assistant
                .iter()
                .map(|part| &rendered.text[part.clone()])
                .collect();
            assert_eq!(parts, [format!("x{private}y</s>")], "{source}");
        }
    }
}

#[test]
fn answers_of_weight_0_are_not_trained_on() {
    let marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ m.keys() | list }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let bare = marked
        .replace("{% generation %}", "")
        .replace("{% endgeneration %}", "");
    let row = |first: i32, second: i32| {
        let row = json!({"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "first", "weight": first},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "second", "weight": second}
        ]});
        Conversation::from_value(row).expect("a conversation")
    };
    for source in [marked, &bare] {
        let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
        let parts = |conversation: &Conversation| {
            let rendered = template.render(conversation).expect("text");
            assert!(!rendered.text.contains("weight"), "{}", rendered.text);
            rendered
                .assistant
                .iter()
                .map(|part| rendered.text[part.clone()].to_owned())
                .collect::<Vec<_>>()
        };
        let [first, second] =
            ["first", "second"].map(|said| format!("{said}['role', 'content']</s>"));
        assert_eq!(parts(&row(0, 1)), [second.as_str()], "{source}");
        assert_eq!(parts(&row(1, 0)), [first.as_str()], "{source}");
        assert_eq!(parts(&row(1, 1)), [first, second], "{source}");
    }
}

#[test]
fn a_template_that_does_not_end_is_given_up() {
    for source in [
        "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(100) %}{{ f(n + 1) if n < 20 }}{% endfor %}{% endmacro %}{{ f(0) }}",
    ] {
        let fault = rendered(source).expect_err(source);
        assert!(matches!(fault, TemplateError::Endless { .. }), "{fault}");
    }
}

#[test]
fn what_one_step_adds_to_a_text_is_bounded() {
    for (source, words) in [
        ("{{ 'a'.ljust(9000, 'b' * 9000) }}", "one character"),
        (
            "{{ ('\\n' * 9000) | indent('x' * 9000, true, true) }}",
            "`indent` to more than a million characters",
        ),
    ] {
        let fault = rendered(source).expect_err(source).to_string();
        assert!(fault.contains(words), "{fault}");
    }
    let fits = rendered("{{ (('a\\n' * 90) | indent(4)) | length }}").expect("text");
    assert_eq!(fits, "536");
}
