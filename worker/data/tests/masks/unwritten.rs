//! Messages and tools of which a template writes nothing are refused by name; fields are told.

use qlora_data::{Conversation, Unwritten};
use serde_json::{Value, json};

use super::{around, called, template, two_turns};

fn unwritten(source: &str, conversation: &Conversation) -> Vec<String> {
    let rendered = template(source).render(conversation).expect(source);
    let name = |unwritten: &Unwritten| match unwritten {
        Unwritten::Message { index, role, .. } => format!("{index} {role}"),
        Unwritten::Tools => "tools".into(),
    };
    rendered.unwritten.iter().map(name).collect()
}

fn row(messages: Value) -> Conversation {
    Conversation::from_value(json!({"messages": messages})).expect("a conversation")
}

/// A template that writes the messages of which `condition` holds.
fn only(condition: &str) -> String {
    format!(
        "{{% for m in messages %}}{{% if {condition} %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
    )
}

#[test]
fn a_message_of_which_nothing_is_written_is_named_with_its_role() {
    let developed = row(json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Be brief."},
        {"role": "assistant", "content": "Be brief."},
    ]));
    for (condition, conversation, wanted) in [
        ("m.role != 'system'", two_turns(), &["0 system"][..]),
        ("true", two_turns(), &[]),
        (
            "m.role == 'assistant'",
            two_turns(),
            &["0 system", "1 user", "3 user"],
        ),
        (
            "m.role == 'assistant' or loop.index0 > 2",
            two_turns(),
            &["0 system", "1 user"],
        ),
        (
            "m.role in ['user', 'assistant', 'system']",
            developed.clone(),
            &["0 developer"],
        ),
        ("true", developed, &[]),
    ] {
        let source = only(condition);
        assert_eq!(unwritten(&source, &conversation), wanted, "{source}");
    }
    let found = template(&only("m.role != 'system'")).render(&two_turns());
    let told = found.expect("text").unwritten[0].to_string();
    assert!(
        told.starts_with("message 0: the chat template leaves out")
            && told.contains("`system`")
            && told.contains("chatml-tools"),
        "{told}"
    );
}

#[test]
fn the_way_out_is_the_one_that_the_template_leaves() {
    let with = |role: &str| {
        row(json!([
            {"role": role, "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "1"},
        ]))
    };
    // As Mistral Nemo's: in front of the last question where nothing follows it.
    let asked = "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}";
    let known = only("m.role in ['user', 'assistant', 'system']");
    let few = only("m.role in ['user', 'assistant']");
    for (source, role, wanted) in [
        (
            known.as_str(),
            "developer",
            "write its role as `system`, or",
        ),
        (asked, "system", "move its text into the first question, or"),
        (
            few.as_str(),
            "system",
            "leave the message out of the row, or",
        ),
        (
            few.as_str(),
            "developer",
            "leave the message out of the row, or",
        ),
    ] {
        let rendered = template(source).render(&with(role)).expect(source);
        let told = rendered.unwritten[0].to_string();
        assert!(told.contains(wanted), "{told}");
        assert!(told.contains(&format!("`{role}`")), "{told}");
    }
}

#[test]
fn a_message_of_which_the_template_cuts_all_away_is_named() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    for (said, wanted) in [
        ("<think>One?</think>", &["0 user"][..]),
        ("<think>One?</think>Two?", &[]),
        ("One?", &[]),
    ] {
        let conversation = row(json!([
            {"role": "user", "content": said},
            {"role": "assistant", "content": "1"},
        ]));
        assert_eq!(unwritten(source, &conversation), wanted, "{said}");
    }
}

#[test]
fn a_message_that_is_written_in_any_way_is_not_named() {
    for written in [
        "{{ m.content | trim }}",
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
        "{{ m.content | tojson(ensure_ascii=true) }}",
        "{{ {'result': m.content} }}",
        "{{ m.content | e }}",
        "{{ m.content.split(' ')[0] }}",
        "{{ m.content[-2:] }}",
        "{{ m.content | replace('e', '3') }}",
    ] {
        let source = around("<|bot|>", "</s>", "<|bot|>")
            .replace("] {{ m.content }}<|end|>", &format!("] {written}<|end|>"));
        assert_ne!(source, around("<|bot|>", "</s>", "<|bot|>"));
        assert_eq!(unwritten(&source, &two_turns()), [""; 0], "{source}");
    }
    // The system's text in the first question, and in the last one.
    let asked = row(json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]));
    for place in ["1", "3"] {
        let source = format!(
            "{{% for m in messages if m.role != 'system' %}}{{% if m.role == 'user' %}}[INST] {{% if loop.index == {place} %}}{{{{ messages[0].content }}}} {{% endif %}}{{{{ m.content }}}} [/INST]{{% else %}} {{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}"
        );
        assert_eq!(unwritten(&source, &asked), [""; 0], "{source}");
    }
    // What the template acts upon is heard, and what is empty says nothing.
    let source = "{% set think = '/no_think' not in messages[0].content %}{{ '<|t|>' if think }}{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    for (said, wanted) in [
        ("Be brief.", &["0 system"][..]),
        ("/no_think", &[]),
        (" ", &[]),
    ] {
        let mut conversation = two_turns();
        conversation.messages[0]["content"] = said.into();
        assert_eq!(unwritten(source, &conversation), wanted, "{said}");
    }
}

#[test]
fn results_and_answers_that_are_not_trained_on_are_looked_for_too() {
    let call = "<|bot|>{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}{{ m.content or '' }}</s>";
    let source_with = |rest: &str| {
        format!(
            "{{{{ tools | tojson }}}}{{% for m in messages %}}{{% if m.role == 'assistant' %}}{call}{{% elif m.role == 'user' %}}<|user|>{{{{ m.content }}}}<|end|>{rest}{{% endfor %}}{{% if add_generation_prompt %}}<|bot|>{{% endif %}}"
        )
    };
    let without = source_with("{% endif %}");
    assert_eq!(unwritten(&without, &called()), ["2 tool"]);
    let with = source_with("{% else %}<r>{{ m.content }}</r>{% endif %}");
    assert_eq!(unwritten(&with, &called()), [""; 0]);
    let mut untrained = two_turns();
    untrained.messages[2]["weight"] = 0.into();
    let source = only("m.role != 'assistant' or loop.last");
    assert_eq!(unwritten(&source, &untrained), ["2 assistant"]);
    // Reasoning of an earlier answer may be left out.
    untrained.messages[2]["content"] = "<think>By the river.</think>".into();
    assert_eq!(unwritten(&source, &untrained), [""; 0]);
}

/// A template that writes messages and calls, and before them `written`.
fn with_tools(written: &str) -> String {
    format!(
        "{written}{{% for m in messages %}}<|{{{{ m.role }}}}|>{{% for c in m.tool_calls or [] %}}{{{{ c.function | tojson }}}}{{% endfor %}}{{{{ m.content or '' }}}}</s>{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
    )
}

#[test]
fn tools_of_which_nothing_is_written_are_named() {
    for (written, wanted) in [
        ("", &["tools"][..]),
        (
            "{% if tools %}You may call functions.{% endif %}",
            &["tools"],
        ),
        ("{{ tools | length }}", &["tools"]),
        ("{{ tools | tojson }}", &[]),
        ("{% for t in tools %}{{ t.function.name }}{% endfor %}", &[]),
        (
            "{% for t in tools %}{{ t.function.description }}{% endfor %}",
            &[],
        ),
        ("{{ tools[0].function.name | upper }}", &[]),
    ] {
        let source = with_tools(written);
        assert_eq!(unwritten(&source, &called()), wanted, "{source}");
        let question = called().question();
        let told = template(&source).writes_tools(&question).expect(&source);
        assert_eq!(told, wanted.is_empty(), "{source}");
    }
    let told = Unwritten::Tools.to_string();
    assert!(told.contains("`tools`") && told.contains("chatml-tools"));
    assert_eq!(unwritten(&with_tools(""), &two_turns()), [""; 0]);
}

#[test]
fn fields_of_which_nothing_is_written_are_told() {
    let messages = json!([
        {"role": "user", "content": "2+2?", "name": "Ann"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "content": "6", "reasoning_content": "Three twice."},
    ]);
    for (written, wanted) in [
        ("", &["reasoning_content", "name"][..]),
        ("{{ m.reasoning_content or '' }}", &["name"]),
        ("{{ m.thinking or '' }}", &["name"]),
        // That of earlier answers is left out.
        ("{{ m.reasoning_content or '' if loop.last }}", &["name"]),
        ("{{ m.name or '' }}", &["reasoning_content"]),
        ("{{ m.name or '' }}{{ m.thinking or '' }}", &[]),
    ] {
        let source = format!(
            "{{% for m in messages %}}<|{{{{ m.role }}}}|>{written}{{{{ m.content }}}}</s>{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
        );
        let rendered = template(&source).render(&row(messages.clone()));
        assert_eq!(
            rendered.expect(&source).unwritten_fields,
            wanted,
            "{source}"
        );
    }
    // A result's name repeats that of its call, and rows without fields have none to tell of.
    let mut conversation = called();
    conversation.messages[2]["name"] = "open_gate".into();
    let rendered = template(&with_tools("{{ tools | tojson }}")).render(&conversation);
    assert_eq!(rendered.expect("text").unwritten_fields, [""; 0]);
}
