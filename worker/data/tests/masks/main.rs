//! What is trained on is the assistant's own text and the end of its turn, whatever a template
//! writes around them.

mod foreign;
mod lost;
mod own;
mod unwritten;

use qlora_data::{ChatTemplate, Conversation, SpecialTokens, TemplateError};
use serde_json::json;

const END: &str = "</s>";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(
        source,
        SpecialTokens {
            bos: "<s>".into(),
            eos: END.into(),
        },
    )
    .expect("a template that compiles")
}

fn two_turns() -> Conversation {
    let row = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the mill?"},
        {"role": "assistant", "content": "By the river."},
        {"role": "user", "content": "By the river."},
        {"role": "assistant", "content": "  Yes, <b>there</b>.\n"},
    ]});
    Conversation::from_value(row).expect("a conversation")
}

/// The same without white space around the answers.
fn plain_turns() -> Conversation {
    let mut conversation = two_turns();
    conversation.messages[4]["content"] = "Yes, <b>there</b>.".into();
    conversation
}

fn called() -> Conversation {
    let row = json!({"messages": [
        {"role": "user", "content": "Open the gate."},
        {"role": "assistant", "tool_calls": [{"name": "open_gate", "arguments": {"gate": "north", "n": 3}}]},
        {"role": "tool", "content": "It is open."},
        {"role": "assistant", "content": "Done."},
    ], "tools": [{"name": "open_gate", "description": "Opens a gate."}]});
    Conversation::from_value(row).expect("a conversation")
}

fn parts(source: &str, conversation: &Conversation) -> Result<Vec<String>, TemplateError> {
    let rendered = template(source).render(conversation)?;
    assert!(rendered.lost.is_empty(), "{source}: {:?}", rendered.lost);
    Ok(rendered
        .assistant
        .iter()
        .map(|part| rendered.text[part.clone()].to_owned())
        .collect())
}

/// A template that writes `before` and `after` around each answer, and `prompt` for the next.
fn around(before: &str, after: &str, prompt: &str) -> String {
    format!(
        "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{before}{{{{ m.content }}}}{after}{{% else %}}[{{{{ m.role }}}}] {{{{ m.content }}}}<|end|>\n{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )
}

/// What the two answers are with `end` behind them.
fn answers(end: &str) -> [String; 2] {
    ["By the river.", "  Yes, <b>there</b>.\n"].map(|said| format!("{said}{end}"))
}
