//! All that an answer says is trained on, or the row is refused by name.

use qlora_data::{Conversation, Loss, Lost};
use serde_json::{Value, json};

use super::{around, called, template, two_turns};

fn lost(source: &str, conversation: &Conversation) -> Vec<Lost> {
    template(source).render(conversation).expect(source).lost
}

fn assert_none_lost(source: &str, conversation: &Conversation) {
    let all = lost(source, conversation);
    assert!(all.is_empty(), "{source}: {all:?}");
}

fn said(filter: &str) -> String {
    around("<|bot|>", "</s>", "<|bot|>").replacen(
        "{{ m.content }}",
        &format!("{{{{ m.content {filter} }}}}"),
        1,
    )
}

#[test]
fn a_text_that_the_template_changes_is_refused_with_the_first_difference() {
    for (filter, found, wanted) in [
        ("| upper", "BY THE RIVER.</s>", "By the river."),
        ("[:8]", "By the r</s>", "By the river."),
        ("| replace('e', '3')", "By th3 riv3r.</s>", "By the river."),
        (".split(' ')[0]", "By</s>", "By the river."),
        (".split(' ') | last", "river.</s>", "By the river."),
        (".split('river')[0]", "By the </s>", "By the river."),
        (".strip('.')", "By the river</s>", "By the river."),
        ("| replace('the ', '')", "By river.</s>", "By the river."),
        ("| title", "By The River.</s>", "By the river."),
        (
            "| tojson | replace('river', 'lake')",
            "By the lake.",
            "By the river.",
        ),
    ] {
        let source = said(filter);
        let all = lost(&source, &two_turns());
        let how = all
            .iter()
            .find(|lost| lost.index == 2)
            .map(|lost| &lost.how);
        let Some(Loss::Changed {
            what,
            found: there,
            wanted: here,
        }) = how
        else {
            panic!("{source}: {all:?}")
        };
        assert!(
            what == "the text" && there.starts_with(found) && here == wanted,
            "{source}: {there} {here}"
        );
        assert!(
            all[0].to_string().contains("message 2") && all[0].to_string().contains(wanted),
            "{}",
            all[0]
        );
    }
    for filter in [
        "",
        "| trim",
        ".strip()",
        "if true",
        ".split('</think>')[-1]",
        "| string",
    ] {
        assert_none_lost(&said(filter), &two_turns());
    }
}

#[test]
fn reasoning_in_front_of_an_answer_may_be_left_out() {
    let mut conversation = two_turns();
    conversation.messages[2]["content"] = "<think>\nA mill.\n</think>\n\nBy the river.".into();
    assert_none_lost(&said(".split('</think>')[-1].strip()"), &conversation);
    assert_eq!(
        lost(
            &said(".split('</think>')[-1].strip().split(' ')[-1]"),
            &conversation
        )[0]
        .index,
        2
    );
}

#[test]
fn each_answer_is_trained_on_or_named() {
    let mut conversation = two_turns();
    conversation.messages[2]["content"] = "Yes.".into();
    conversation.messages[4]["content"] = "Yes.".into();
    let said = "<|bot|>OPEN{{ m.content }}</s>CLOSE";
    for (source, outside) in [
        ("{% if not loop.last %}{% else %}SAID{% endif %}", false),
        (
            "{% if loop.index0 == 2 %}<|bot|>{{ m.content }}</s>{% else %}SAID{% endif %}",
            true,
        ),
    ] {
        for marked in [true, false] {
            let (open, close) = if marked {
                ("{% generation %}", "{% endgeneration %}")
            } else {
                ("", "")
            };
            let said = said.replace("OPEN", open).replace("CLOSE", close);
            let source = around(&source.replace("SAID", &said), "", "<|bot|>")
                .replace("{{ m.content }}{% else %}[", "{% else %}[");
            let all = lost(&source, &conversation);
            if !marked && outside {
                assert!(all.is_empty(), "{source}: {all:?}");
                continue;
            }
            assert_eq!(
                all.iter().map(|lost| lost.index).collect::<Vec<_>>(),
                [2],
                "{source}"
            );
            assert_eq!(
                matches!(all[0].how, Loss::OutsideBlocks(_)),
                outside,
                "{source}: {}",
                all[0]
            );
            assert_eq!(
                all[0].to_string().contains("leaves out"),
                !outside,
                "{}",
                all[0]
            );
        }
    }
}

/// A template that writes calls as `written`.
fn calling(written: &str) -> String {
    format!(
        "{{% for m in messages %}}{{% if m.role == 'assistant' %}}<|bot|>{{% for c in m.tool_calls or [] %}}{{% set f = c.function %}}<call>{written}</call>{{% endfor %}}{{{{ m.content or '' }}}}</s>{{% else %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}<|end|>{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}<|bot|>{{% endif %}}"
    )
}

fn with_arguments(arguments: &Value) -> Conversation {
    let mut conversation = called();
    conversation.messages[1]["tool_calls"][0]["function"]["arguments"] = arguments.clone();
    conversation
}

#[test]
fn calls_are_known_in_the_ways_that_templates_write_them() {
    let arguments = json!({"city": "Zürich \"x\" <b> & 'y'\nz", "n": 3, "price": 1.5e-7, "fast": true, "who": {"name": "Ann", "ages": [1, 2.5]}, "none": null, "empty": "", "list": []});
    for written in [
        "{{ f | tojson }}",
        "{{ f | tojson(ensure_ascii=true) }}",
        "{{ f.name }}({{ f.arguments | tojson }})",
        "{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson | tojson }}}",
        "{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v }}, {% endfor %})",
        "{{ f }}",
        "<function={{ f.name }}>{% for k, v in f.arguments | items %}<parameter={{ k }}>{{ v if v is string else v | tojson }}</parameter>{% endfor %}</function>",
        "{{ f.name }}{% for k in f.arguments %}<{{ k }}>{{ f.arguments[k] | string | e }}</{{ k }}>{% endfor %}",
        "{{ f.name }}(city={{ f.arguments.city }}, n={{ f.arguments.n }}, price={{ f.arguments.price }}, fast={{ f.arguments.fast }}, who={{ f.arguments.who }}, none={{ f.arguments.none }}, empty={{ f.arguments.empty }}, list={{ f.arguments.list }})",
    ] {
        let source = calling(written);
        assert_none_lost(&source, &with_arguments(&arguments));
    }
}

#[test]
fn what_a_template_drops_of_a_call_is_refused_by_name() {
    let arguments = json!({"gate": "open", "n": 3, "who": {"name": "Ann"}, "on": true});
    for (written, named) in [
        ("{{ f.name }}", "`gate`"),
        ("{{ f.arguments | tojson }}", "the call of `open_gate`"),
        (
            "{{ f.name }}({{ f.arguments.values() | join(', ') }})",
            "`gate`",
        ),
        ("{{ f.name }}({{ f.arguments | join(', ') }})", "`gate`"),
        (
            "{{ f.name }}(gate={{ f.arguments.gate }}, who={{ f.arguments.who }}, on={{ f.arguments.on }})",
            "`n`",
        ),
        (
            "{{ f.name }}(gate={{ f.arguments.gate }}, n={{ f.arguments.n }}, on={{ f.arguments.on }}, who)",
            "`who`",
        ),
        (
            "{{ f.name }}{% for k, v in f.arguments.items() if v is string %}{{ k }}={{ v }}{% endfor %}",
            "`n`",
        ),
        (
            "{{ f.name }}{% for k, v in f.arguments.items() %}{{ k }}={{ v | upper }}{% endfor %}",
            "`gate`",
        ),
        (
            "{{ f.name }}{% for k, v in f.arguments.items() %}{{ k }}={{ v | string | length }}{% endfor %}",
            "`gate`",
        ),
        (
            "{{ f.name }}{% for k, v in f.arguments.items() %}{{ k }}={{ v if v is not mapping else v | length }}{% endfor %}",
            "`who.name`",
        ),
        (
            "{{ {'name': f.name, 'arguments': {'gate': 'open', 'n': 3, 'who': {'name': 'Ann'}, 'on': true}} | tojson }}",
            "`gate`",
        ),
    ] {
        let source = calling(written);
        let all = lost(&source, &with_arguments(&arguments));
        assert!(
            all.len() == 1 && all[0].index == 1 && all[0].to_string().contains(named),
            "{source}: {all:?}"
        );
    }
}
