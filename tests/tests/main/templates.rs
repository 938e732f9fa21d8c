//! Public chat templates, as packages of others carry them, against transformers' own rendering; and the assistant's
//! part of each, which transformers can only tell where a template marks it.

use std::path::{Path, PathBuf};
use std::process::Command;

use qlora_data::{ChatTemplate, Conversation, Rendered, SpecialTokens};
use serde_json::Value;

/// Templates that `tests/run` takes from PyPI packages, and how many conversations each must render alike.
const TEMPLATES: [(&str, usize); 4] = [
    ("llama3_1.jinja", 22),
    ("meta-llama-Llama-3.1-8B-Instruct.jinja", 22),
    ("mistralai-Mistral-Nemo-Instruct-2407.jinja", 19),
    ("qwen2_5.jinja", 22),
];

fn folder() -> PathBuf {
    let folder = std::env::var_os("QLORA_TEST_TEMPLATES");
    folder.expect("QLORA_TEST_TEMPLATES is not set: run tests/run, which gets the templates").into()
}

fn rendered_by_transformers(templates: &[PathBuf], out: &Path) -> Vec<Value> {
    let python = std::env::var("QLORA_TEST_PYTHON").expect("QLORA_TEST_PYTHON is not set: run tests/run");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(here.join("python/chat_templates.py"))
        .arg(here.join("golden/chat/conversations.json"))
        .arg(out)
        .args(templates)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&std::fs::read(out).expect("rows")).expect("JSON");
    rows.as_array().expect("a list").clone()
}

/// The assistant's part is one piece a turn, holds what the turn says, and ends the turn; nothing else does so.
fn covers_the_assistant(rendered: &Rendered, conversation: &Conversation, what: &str) {
    let turns: Vec<&Value> = conversation.messages.iter().filter(|m| m["role"] == "assistant").collect();
    assert_eq!(rendered.assistant.len(), turns.len(), "{what}");
    let ends = ["<|eot_id|>", "<|eom_id|>", "</s>", "<|im_end|>"];
    let mut before = 0;
    for (range, turn) in rendered.assistant.iter().zip(turns) {
        assert!(range.start >= before, "{what}: pieces overlap");
        before = range.end;
        let piece = &rendered.text[range.clone()];
        let end =
            ends.iter().find(|end| piece.ends_with(*end)).unwrap_or_else(|| panic!("{what}: {piece:?} has no end"));
        let said = piece.strip_suffix(end).expect("an end").trim();
        let own = turn["content"].as_str().unwrap_or_default();
        assert!(own.contains(end) || !said.contains(end), "{what}: more than one turn in {piece:?}");
        let calls = turn["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        if calls.is_empty() {
            assert_eq!(said, own.trim(), "{what}");
        }
        for call in calls {
            assert!(said.contains(call["function"]["name"].as_str().expect("a name")), "{what}: {piece:?}");
        }
    }
}

#[test]
fn public_templates_render_as_with_transformers_and_their_masks_cover_the_assistant() {
    let paths: Vec<_> = TEMPLATES.iter().map(|(name, _)| folder().join(name)).collect();
    let home = tempfile::tempdir().expect("a folder");
    let rows = rendered_by_transformers(&paths, &home.path().join("rows.json"));
    let special = SpecialTokens { bos: "<s>".into(), eos: "</s>".into() };
    for (name, wanted) in TEMPLATES {
        let mut alike = 0;
        for row in rows.iter().filter(|row| row["template"] == name) {
            let template = ChatTemplate::new(row["source"].as_str().expect("text"), special.clone()).expect(name);
            let list = |key: &str| row["conversation"][key].as_array().cloned().unwrap_or_default();
            let conversation = Conversation { messages: list("messages"), tools: list("tools") };
            let what = format!("{name}, {}", row["conversation"]["name"]);
            let Some(text) = row["text"].as_str() else {
                assert!(template.text(&conversation, false).is_err(), "{what} should be refused");
                continue;
            };
            assert_eq!(template.text(&conversation, false).expect(&what), text, "{what}");
            assert_eq!(
                template.text(&conversation, true).expect(&what),
                row["prompted"].as_str().expect("text"),
                "{what}"
            );
            covers_the_assistant(&template.render(&conversation).expect(&what), &conversation, &what);
            alike += 1;
        }
        assert!(alike >= wanted, "{name}: only {alike} conversations");
    }
}
