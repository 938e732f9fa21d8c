//! Another's text within a turn, and turns out of their order, are refused by name.

use qlora_data::{Conversation, TemplateError};
use serde_json::json;

use super::{answers, around, called, parts, template, two_turns};

#[test]
fn a_template_that_mixes_texts_is_refused() {
    for (after, conversation) in [
        // Another's text stands before the end of the turn.
        (
            " ({{ messages[loop.index0 - 1].content }})</s>",
            two_turns(),
        ),
        ("{{ messages[0].content }}\n", two_turns()),
        (
            "\nYou asked: {{ messages[loop.index0 - 1].content | replace('e', 'E') }}\n",
            two_turns(),
        ),
        (
            "{{ messages[loop.index0 - 1].content }}{{ m.content }}</s>",
            two_turns(),
        ),
        ("{{ messages[0].content | tojson }}", called()),
        ("{{ tools | tojson }}</s>", called()),
    ] {
        let source = around(
            "<|bot|>{{ m.tool_calls | tojson if m.tool_calls }}",
            after,
            "<|bot|>",
        );
        let fault = template(&source).render(&conversation).expect_err(&source);
        assert!(
            matches!(fault, TemplateError::Foreign { .. }),
            "{source}: {fault}"
        );
        assert!(fault.to_string().contains("chatml-tools"), "{fault}");
    }
}

/// Ways in which a template writes a part of the next message.
const AHEAD: [&str; 11] = [
    "{{ next }}",
    "<r>{{ next | upper }}</r>",
    "<r>{{ next[:4] }}</r>",
    "<r>{{ next[-2] }}</r>",
    "<r>{{ next[-1] }}</r>",
    "{{ next[-1:] }}",
    "<r>{{ next.split(' ')[0] }}</r>",
    "<r>{{ next.split(' ')[1] }}</r>",
    "<r>{{ next.split(' ') | last }}</r>",
    "<r>{{ next | length }}</r>",
    "{% if next.startswith('I') %}<r>{{ next | reverse }}</r>{% endif %}",
];

fn results() -> Vec<Conversation> {
    ["It is open.", "I open 42 gates", "I 7 {\"a\": 1.5}"]
        .map(|result| {
            let mut conversation = called();
            conversation.messages[2]["content"] = result.into();
            conversation
        })
        .to_vec()
}

#[test]
fn a_later_message_is_never_trained_on() {
    let call = "<call>{{ m.tool_calls[0].function | tojson }}</call>";
    let inner = "<call>{{ m.tool_calls[0].function.name }}AHEAD{{ m.tool_calls[0].function.arguments | tojson }}</call>";
    let ahead = |way: &str| format!("{{% set next = messages[loop.index].content %}}{way}");
    let mut refused = 0;
    for way in AHEAD.map(ahead) {
        for written in [
            format!("{call}{way}</s>"),
            format!("{way}{call}</s>"),
            inner.replace("AHEAD", &way) + "</s>",
        ] {
            for marked in [false, true] {
                let (open, close) = if marked {
                    ("{% generation %}", "{% endgeneration %}")
                } else {
                    ("", "")
                };
                let answer = format!(
                    "<|bot|>{open}{{% if m.tool_calls %}}{written}{{% else %}}{{{{ m.content }}}}</s>{{% endif %}}{close}"
                );
                let source = around(&answer, "", "<|bot|>")
                    .replace("{{ m.content }}{% else %}", "{% else %}");
                for conversation in results() {
                    let fault = template(&source).render(&conversation).expect_err(&source);
                    let named = matches!(
                        fault,
                        TemplateError::Foreign { index: 1, .. }
                            | TemplateError::Unclear { index: 1 }
                    );
                    assert!(named, "{source}: {fault}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused, AHEAD.len() * 3 * 2 * 3);
}

#[test]
fn answers_out_of_their_order_are_refused() {
    let said = "{% if m.role == 'assistant' %}<|bot|>OPEN{{ m.content }}</s>CLOSE{% else %}<|user|>{{ m.content }}<|end|>{% endif %}";
    let marked = said
        .replace("OPEN", "{% generation %}")
        .replace("CLOSE", "{% endgeneration %}");
    let bare = said.replace("OPEN", "").replace("CLOSE", "");
    for body in [bare, marked] {
        for order in [
            "messages | reverse",
            "messages[::-1]",
            "messages | sort(attribute='role')",
            "(messages | selectattr('role', 'equalto', 'assistant') | list) + (messages | rejectattr('role', 'equalto', 'assistant') | list)",
        ] {
            for prompt in ["{% if add_generation_prompt %}<|bot|>{% endif %}", ""] {
                let source = format!("{{% for m in {order} %}}{body}{{% endfor %}}{prompt}");
                let fault = template(&source).render(&two_turns()).expect_err(&source);
                let named = matches!(
                    fault,
                    TemplateError::Order { index: 2, .. }
                        | TemplateError::Foreign { index: 2, .. }
                        | TemplateError::Unclear { index: 2 }
                );
                assert!(
                    named && fault.to_string().contains("message 2"),
                    "{source}: {fault}"
                );
            }
        }
    }
}

#[test]
fn the_systems_text_may_stand_in_a_question() {
    let source = "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] {% if loop.index0 == 2 %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}";
    let conversation = Conversation::from_value(json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]}));
    assert_eq!(
        parts(source, &conversation.expect("a conversation")).expect(source),
        ["1</s>", "2</s>"]
    );
}

#[test]
fn blocks_hold_the_assistants_text_alone() {
    let marked = |inner: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{{% generation %}}{inner}{{% endgeneration %}}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
        )
    };
    assert_eq!(
        parts(&marked("{{ m.content }}</s>"), &two_turns()).expect("parts"),
        answers("</s>")
    );
    for source in [
        marked("{{ m.content }}</s>{{ messages[1].content }}"),
        marked("{{ messages[0].content }}{{ m.content }}</s>"),
        "{% generation %}{% for m in messages %}{{ m.content }}</s>{% endfor %}{% endgeneration %}"
            .into(),
    ] {
        let fault = template(&source).render(&two_turns()).expect_err(&source);
        assert!(
            matches!(fault, TemplateError::Foreign { .. }),
            "{source}: {fault}"
        );
    }
    // Of two answers, one stands outside of the blocks.
    let source = "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}";
    let rendered = template(source).render(&two_turns()).expect("text");
    assert_eq!(
        rendered
            .lost
            .iter()
            .map(|lost| lost.index)
            .collect::<Vec<_>>(),
        [2]
    );
}
