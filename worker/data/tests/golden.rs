//! Templates, tokens and masks against those of transformers (`tests/golden/chat`).

use std::fs;
use std::ops::Range;

use qlora_data::{ChatTemplate, Conversation, IGNORE, SpecialTokens, encode};
use qlora_testkit::{golden, golden_json};
use serde_json::Value;
use tokenizers::Tokenizer;

fn json(name: &str) -> Value {
    golden_json(&format!("chat/{name}"))
}

fn conversation(all: &Value, name: &str) -> Conversation {
    let rows = all
        .as_array()
        .or_else(|| all["conversations"].as_array())
        .expect("conversations");
    let row = rows
        .iter()
        .find(|r| r["name"] == name || r["id"] == name)
        .expect("a conversation of that name");
    let list = |key: &str| row[key].as_array().cloned().unwrap_or_default();
    Conversation {
        messages: list("messages"),
        tools: list("tools"),
    }
}

fn compare(template: &str) -> usize {
    let recorded = json(&format!("{template}.json"));
    let conversations = json("conversations.json");
    let tokenizer =
        Tokenizer::from_file(golden("chat/tokenizer/tokenizer.json")).expect("a tokenizer");
    let source = fs::read_to_string(golden(&format!("chat/{template}.jinja"))).expect("a template");
    let text = |key: &str| recorded[key].as_str().unwrap_or_default().to_owned();
    let special = SpecialTokens {
        bos: text("bos_token"),
        eos: text("eos_token"),
    };
    let template = ChatTemplate::new(&source, special).expect("a template that compiles");
    let mut compared = 0;
    for row in recorded["rows"].as_array().expect("rows") {
        let name = row["conversation"].as_str().expect("a name");
        let conversation = conversation(&conversations, name);
        let Some(wanted) = row["text"].as_str() else {
            assert!(
                template.text(&conversation, false).is_err(),
                "{name} should be refused"
            );
            continue;
        };
        assert_eq!(
            template.text(&conversation, false).expect(name),
            wanted,
            "{name}"
        );
        assert_eq!(
            template.text(&conversation, true).expect(name),
            row["text_generation_prompt"].as_str().expect("text"),
            "{name}"
        );
        let sample = encode(&tokenizer, &template, &conversation).expect(name);
        let ids: Vec<u64> = sample.ids.iter().map(|&id| u64::from(id)).collect();
        let wanted: Vec<u64> = row["ids"]
            .as_array()
            .expect("ids")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        assert_eq!(ids, wanted, "{name}");
        let mask: Vec<u64> = sample
            .labels
            .iter()
            .map(|&l| u64::from(l != IGNORE))
            .collect();
        let wanted: Vec<u64> = row["assistant_mask"]
            .as_array()
            .expect("a mask")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        assert_eq!(mask, wanted, "{name}");
        compared += 1;
    }
    compared
}

#[test]
fn chatml_with_tools_equals_transformers() {
    assert_eq!(compare("chatml_tools"), 22);
}

#[test]
fn the_llama_style_equals_transformers() {
    let recorded = json("llama3_like.json");
    assert!(recorded["extra_variables"].is_object());
    assert_eq!(compare("llama3_like"), 22);
}

#[test]
fn the_mistral_style_equals_transformers() {
    assert_eq!(compare("mistral_like"), 19);
}

/// The masks that a template's `{% generation %}` blocks give are found without the blocks too.
fn derived_masks_agree(name: &str) -> usize {
    let recorded = json(&format!("{name}.json"));
    let conversations = json("conversations.json");
    let marked = fs::read_to_string(golden(&format!("chat/{name}.jinja"))).expect("a template");
    let text = |key: &str| recorded[key].as_str().unwrap_or_default().to_owned();
    let special = SpecialTokens {
        bos: text("bos_token"),
        eos: text("eos_token"),
    };
    let bare = [
        "{%- generation %}",
        "{%- endgeneration %}",
        "{% generation %}",
        "{% endgeneration %}",
    ]
    .iter()
    .fold(marked.clone(), |source, tag| {
        source.replace(
            tag,
            if tag.starts_with("{%-") {
                "{{- '' }}"
            } else {
                ""
            },
        )
    });
    assert_ne!(bare, marked);
    let (marked, bare) = (
        ChatTemplate::new(&marked, special.clone()),
        ChatTemplate::new(&bare, special),
    );
    let (marked, bare) = (marked.expect("a template"), bare.expect("a template"));
    let mut compared = 0;
    for row in recorded["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .filter(|row| row["text"].is_string())
    {
        let conversation_name = row["conversation"].as_str().expect("a name");
        let conversation = conversation(&conversations, conversation_name);
        let wanted = marked.render(&conversation).expect(conversation_name);
        let found = bare.render(&conversation).expect(conversation_name);
        assert_eq!(found.text, wanted.text, "{name} {conversation_name}");
        // The block of the Mistral style holds the space before an answer, which is the template's.
        let space = |part: &Range<usize>| {
            let answer = found.text[part.clone()].trim_end_matches("</s>");
            usize::from(
                name == "mistral_like" && answer.starts_with(' ') && !answer.trim().is_empty(),
            )
        };
        let bare = |part: &Range<usize>| part.start + space(part)..part.end;
        let wanted: Vec<Range<usize>> = wanted.assistant.iter().map(bare).collect();
        assert_eq!(
            found.assistant, wanted,
            "{name} {conversation_name}: {}",
            found.text
        );
        compared += 1;
    }
    compared
}

#[test]
fn masks_are_found_in_templates_without_generation_blocks() {
    assert_eq!(derived_masks_agree("chatml_tools"), 22);
    assert_eq!(derived_masks_agree("llama3_like"), 22);
    assert_eq!(derived_masks_agree("mistral_like"), 19);
}
