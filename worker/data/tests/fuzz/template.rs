//! Chat templates: their source, and what they write of a conversation.

use qlora_data::{ChatTemplate, Conversation, Rendered, SpecialTokens};
use qlora_fuzz::Target;
use qlora_testkit::golden_json;

const WORDS: [&str; 34] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{%- if ",
    "{%- else %}",
    "{%- endif %}",
    "{%- for m in messages %}",
    "{%- endfor %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% macro f() %}",
    "{% endmacro %}",
    "{{ f() }}",
    "messages",
    "message",
    "tools",
    "loop.index0",
    "m['content']",
    "m.role",
    "tool_calls",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception('no')",
    "strftime_now('%d %q')",
    "range(99999999)",
    " * 99999999",
    "|tojson",
    "|tojson(indent=999999)",
    "|join",
    ".split('')",
    "'%99999999d' % 1",
    "namespace(a=1)",
];

#[test]
fn fuzz_template() {
    let conversations = conversations();
    Target::new("template")
        .files("worker/data/tests/fuzz/seeds/templates", ".jinja")
        .files("tests/golden/chat", ".jinja")
        .file("worker/data/templates/chatml_tools.jinja")
        .seed(format!("{{{{ f({}) }}}}", "word".repeat(10_000)))
        .words(&WORDS)
        .run(|bytes| {
            let special = SpecialTokens {
                bos: "<s>".into(),
                eos: "</s>".into(),
            };
            if let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(bytes), special) {
                conversations.iter().for_each(|c| check(&template, c));
            }
        });
}

/// One plain conversation, and one with calls.
fn conversations() -> Vec<Conversation> {
    let all = golden_json("chat/conversations.json");
    let rows = all.as_array().or_else(|| all["conversations"].as_array());
    let rows = rows.expect("a list").iter().cloned();
    let mut read: Vec<_> = rows
        .filter_map(|row| Conversation::from_value(row).ok())
        .collect();
    read.sort_by_key(|conversation| !conversation.tools.is_empty());
    assert!(read.len() > 1, "two conversations");
    let last = read.pop();
    read.truncate(1);
    read.extend(last);
    read
}

/// What is trained on is a part of the text, in order; and the text is what a question would get.
fn check(template: &ChatTemplate, conversation: &Conversation) {
    let Ok(Rendered {
        text, assistant, ..
    }) = template.render(conversation)
    else {
        return;
    };
    let mut end = 0;
    for range in &assistant {
        assert!(range.start >= end, "{assistant:?} is not ascending");
        assert!(text.get(range.clone()).is_some(), "{range:?} of {text:?}");
        end = range.end;
    }
    let shown = template
        .text(conversation, false)
        .expect("the same conversation");
    assert_eq!(shown, text);
}
