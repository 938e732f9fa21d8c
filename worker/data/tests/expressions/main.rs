//! A table of small templates, rendered by Python's Jinja2 as transformers sets it up, and by ours.

mod generated;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qlora_data::{ChatTemplate, Conversation, SpecialTokens, TemplateError};
use serde_json::{Value, json};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn row() -> Value {
    let arguments = json!({"city": "Zürich", "a": "é\"", "n": 1.5e-7, "items": [1, 2.0, null]});
    let call = json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}});
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "get": {"type": "integer"},
        "items": {"type": "array", "enum": [1]}}, "required": ["city", "get"]});
    json!({
        "messages": [
            {"role": "user", "content": "hello <b> world"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "content": "12 °C\n", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It's \"cold\"."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}],
    })
}

/// The templates of a table: lines that are neither empty nor comments.
fn templates(table: &str) -> Vec<String> {
    let text = std::fs::read_to_string(tests().join(table)).expect("a table");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines.map(|line| line.replace('⏎', "\n")).collect()
}

/// What Python makes of each template; none where it refuses.
fn by_python(row: &Value, templates: &[String]) -> Vec<Option<String>> {
    let python =
        std::env::var_os("QLORA_TEST_PYTHON").expect("QLORA_TEST_PYTHON is not set: run tests/run");
    let home = tempfile::tempdir().expect("a folder");
    let (input, out) = (home.path().join("row.json"), home.path().join("texts.json"));
    std::fs::write(&input, row.to_string()).expect("a file");
    let mut command = Command::new(python);
    command
        .arg(tests().join("expressions.py"))
        .arg(&input)
        .arg(&out)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("python runs");
    let list = serde_json::to_vec(templates).expect("JSON");
    child
        .stdin
        .take()
        .expect("an input")
        .write_all(&list)
        .expect("a list of templates");
    let output = child.wait_with_output().expect("python ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&std::fs::read(&out).expect("texts")).expect("JSON")
}

fn by_us(row: &Value, source: &str) -> Result<String, TemplateError> {
    let list = |key: &str| row[key].as_array().cloned().unwrap_or_default();
    let conversation = Conversation {
        messages: list("messages"),
        tools: list("tools"),
    };
    let special = SpecialTokens {
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    ChatTemplate::new(source, special)?.text(&conversation, false)
}

#[test]
fn what_is_not_carried_out_is_refused() {
    let (row, templates) = (row(), templates("refused_expressions.txt"));
    for (source, wanted) in templates.iter().zip(by_python(&row, &templates)) {
        assert!(wanted.is_some(), "{source}: Python refuses it too");
        assert!(
            by_us(&row, source).is_err(),
            "{source} is carried out; move it to expressions.txt"
        );
    }
}

#[test]
fn expressions_render_as_in_python() {
    let (row, templates) = (row(), templates("expressions.txt"));
    let mut faults = Vec::new();
    for (source, wanted) in templates.iter().zip(by_python(&row, &templates)) {
        match (by_us(&row, source), wanted) {
            (Ok(text), Some(wanted)) if text == wanted => {}
            (Err(_), None) => {}
            (Ok(text), wanted) => {
                faults.push(format!("{source}\n  python {wanted:?}\n  ours   {text:?}"))
            }
            (Err(e), wanted) => faults.push(format!(
                "{source}\n  python {wanted:?}\n  ours   refuses: {e}"
            )),
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {} differ:\n{}",
        faults.len(),
        templates.len(),
        faults.join("\n")
    );
}

#[test]
fn a_template_is_given_the_content_that_python_is_given() {
    let source = "{{ messages[1].content }}|{{ messages[1].content is none }}|{{ messages[1].content is defined }}|{{ 'content' in messages[1] }}";
    let call = json!([{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}]);
    for content in [
        None,
        Some(json!(null)),
        Some(json!("")),
        Some(json!(" text\n")),
    ] {
        for calls in [Some(&call), None] {
            let mut answer = json!({"role": "assistant"});
            answer
                .as_object_mut()
                .expect("an object")
                .extend(content.clone().map(|text| ("content".into(), text)));
            answer
                .as_object_mut()
                .expect("an object")
                .extend(calls.map(|calls| ("tool_calls".into(), calls.clone())));
            let given = json!({"messages": [{"role": "user", "content": "q"}, answer], "tools": row()["tools"]});
            let Ok(conversation) = Conversation::from_value(given.clone()) else {
                let says_nothing = content
                    .as_ref()
                    .is_none_or(|text| text.is_null() || text == "");
                assert!(calls.is_none() && says_nothing, "{given}");
                continue;
            };
            let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
            let wanted = by_python(&given, &[source.to_owned()]).remove(0);
            assert_eq!(template.text(&conversation, false).ok(), wanted, "{given}");
        }
    }
}
