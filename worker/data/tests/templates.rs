//! Public chat templates, as packages of others carry them, against transformers' own rendering of
//! the same conversations; and the assistant's part of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use qlora_data::{ChatTemplate, Conversation, Rendered, SpecialTokens, TemplateError, Unwritten};
use qlora_testkit::golden_json;
use serde_json::{Map, Value};

/// Templates that `tests/run` gets, and renderings of them that transformers does not refuse.
const TEMPLATES: usize = 142;
const RENDERINGS: usize = 3000;

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run tests/run, which gets what it names"))
        .into()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn object(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("an object")
}

fn conversations() -> Vec<(String, Conversation)> {
    let list = |row: &Value, key: &str| row[key].as_array().cloned().unwrap_or_default();
    let read = |(name, row): (String, Value)| {
        (
            name,
            Conversation {
                messages: list(&row, "messages"),
                tools: list(&row, "tools"),
            },
        )
    };
    object(&tests().join("conversations.json"))
        .into_iter()
        .map(read)
        .collect()
}

/// What transformers makes of every template, by its name.
fn rendered_by_transformers() -> BTreeMap<String, Value> {
    let entries = std::fs::read_dir(variable("QLORA_TEST_TEMPLATES")).expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("texts.json");
    let mut command = Command::new(variable("QLORA_TEST_PYTHON"));
    command
        .arg(tests().join("render.py"))
        .arg(tests().join("conversations.json"))
        .arg(&out)
        .args(paths);
    let output = command.output().expect("python runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    object(&out).into_iter().collect()
}

fn template(of: &Value) -> ChatTemplate {
    let special = SpecialTokens {
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    ChatTemplate::new(of["source"].as_str().expect("text"), special)
        .expect("a template that compiles")
}

/// What templates leave out of the rows besides answers, as `left_out.txt` has it: row, what, and
/// template.
fn recorded_as_left_out() -> BTreeSet<String> {
    let text = std::fs::read_to_string(tests().join("left_out.txt")).expect("a file");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let one = |line: &str| -> Vec<String> {
        let (what, templates) = line.rsplit_once("; ").expect("three parts");
        let templates = templates.split(' ');
        templates.map(|name| format!("{what}; {name}")).collect()
    };
    lines.flat_map(one).collect()
}

/// The same for one row and template.
fn left_out(rendered: &Rendered, row: &str, template: &str) -> Vec<String> {
    let template = template.trim_end_matches(".jinja");
    let one = |unwritten: &Unwritten| match unwritten {
        Unwritten::Message { index, role, .. } => {
            format!("{row}; message {index}, {role}; {template}")
        }
        Unwritten::Tools => format!("{row}; tools; {template}"),
    };
    rendered.unwritten.iter().map(one).collect()
}

#[test]
fn public_templates_render_as_with_transformers() {
    let (conversations, wanted) = (conversations(), rendered_by_transformers());
    assert_eq!(wanted.len(), TEMPLATES);
    let (mut alike, mut lacking) = (0, BTreeSet::new());
    let mut faults = Vec::new();
    for (name, of) in &wanted {
        let template = template(of);
        for (what, conversation) in &conversations {
            for (place, prompt) in [false, true].into_iter().enumerate() {
                let text = template.text(conversation, prompt);
                match of["texts"][what][place].as_str() {
                    Some(wanted) => {
                        let text = text.unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
                        assert_eq!(text, wanted, "{name}, {what}");
                        alike += 1;
                    }
                    None => assert!(text.is_err(), "{name}, {what}: transformers refuses it"),
                }
            }
            if of["texts"][what][0].is_string() {
                match template.render(conversation) {
                    Ok(rendered) => {
                        parts_are_the_assistants(
                            &rendered,
                            conversation,
                            &format!("{name}, {what}"),
                        );
                        lacking.extend(left_out(&rendered, what, name));
                    }
                    // Gemma 4 writes results between the calls of a turn and its text.
                    Err(TemplateError::Unclear { index: 2 })
                        if name.contains("gemma") && what == "parallel" => {}
                    Err(e) => faults.push(format!("{name}, {what}: {e}")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let recorded = recorded_as_left_out();
    let others: Vec<&String> = lacking.symmetric_difference(&recorded).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(alike >= RENDERINGS, "only {alike} renderings");
}

/// Trained parts hold no other's text and do not begin or end inside a token; each answer is in
/// one, unless it is told that the template leaves it out.
fn parts_are_the_assistants(rendered: &Rendered, conversation: &Conversation, what: &str) {
    let text = |message: &Value| {
        message["content"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let parts: Vec<&str> = rendered
        .assistant
        .iter()
        .map(|part| &rendered.text[part.clone()])
        .collect();
    for (index, message) in conversation.messages.iter().enumerate() {
        let said = text(message);
        if message["role"] == "assistant" {
            let last = said.lines().last().unwrap_or_default();
            let held = parts.iter().any(|part| part.contains(last));
            assert!(
                held || rendered.lost.iter().any(|lost| lost.index == index),
                "{what}: {said:?} is not in {parts:?}"
            );
        } else {
            let own = |other: &Value| other["role"] == "assistant" && text(other).contains(&said);
            let foreign = parts.iter().any(|part| part.contains(&said));
            // Short texts occur in answers and arguments too.
            assert!(
                said.len() < 4 || !foreign || conversation.messages.iter().any(own),
                "{what}: {said:?} in {parts:?}"
            );
        }
    }
    for part in &rendered.assistant {
        for edge in [part.start, part.end] {
            assert!(
                !inside_a_token(&rendered.text, edge),
                "{what}: an edge of {:?}",
                &rendered.text[part.clone()]
            );
        }
    }
}

/// Some templates write a text between apostrophes and escape those in it, which neither JSON nor
/// Python does.
#[test]
fn an_argument_with_quotation_marks_is_lost_nowhere() {
    let (conversations, templates) = (conversations(), rendered_by_transformers());
    let (_, plain) = conversations
        .into_iter()
        .find(|(name, _)| name == "toolsonly")
        .expect("a conversation");
    let asking_for = |city: &str| {
        let mut conversation = plain.clone();
        conversation.messages[1]["tool_calls"][0]["function"]["arguments"]["city"] = city.into();
        conversation
    };
    let (mut looked_at, mut faults) = (0, Vec::new());
    for (name, of) in &templates {
        let template = template(of);
        let is_whole = |city: &str| {
            let rendered = template.render(&asking_for(city));
            rendered.is_ok_and(|rendered| rendered.lost.is_empty())
        };
        if !is_whole("Oslo") {
            continue;
        }
        looked_at += 1;
        for city in ["it's", "it's \"so\"", "it's C:\\bin", "it's\nso", "\\"] {
            if !is_whole(city) {
                faults.push(format!("{name}: {city:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(looked_at > 80, "only {looked_at} templates");
}

/// Ends of turns in templates of Llama, Mistral and Qwen.
const ENDS: [&str; 4] = ["<|eot_id|>", "<|eom_id|>", "</s>", "<|im_end|>"];

/// The assistant's part is one piece a turn, holds what the turn says, and ends the turn; nothing
/// else does so.
fn covers_the_assistant(rendered: &Rendered, conversation: &Conversation, what: &str) {
    let turns: Vec<&Value> = conversation
        .messages
        .iter()
        .filter(|m| m["role"] == "assistant")
        .collect();
    assert_eq!(rendered.assistant.len(), turns.len(), "{what}");
    let mut before = 0;
    for (range, turn) in rendered.assistant.iter().zip(turns) {
        assert!(range.start >= before, "{what}: pieces overlap");
        before = range.end;
        let piece = &rendered.text[range.clone()];
        let end = ENDS
            .iter()
            .find(|end| piece.ends_with(*end))
            .unwrap_or_else(|| panic!("{what}: {piece:?} has no end"));
        let said = piece.strip_suffix(end).expect("an end").trim();
        let own = turn["content"].as_str().unwrap_or_default();
        assert!(
            own.contains(end) || !said.contains(end),
            "{what}: more than one turn in {piece:?}"
        );
        let calls = turn["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        if calls.is_empty() {
            assert_eq!(said, own.trim(), "{what}");
        }
        for call in calls {
            assert!(
                said.contains(call["function"]["name"].as_str().expect("a name")),
                "{what}: {piece:?}"
            );
        }
    }
}

#[test]
fn pieces_are_whole_turns_with_their_ends() {
    let given = golden_json("chat/conversations.json");
    let rows = given
        .as_array()
        .or_else(|| given["conversations"].as_array())
        .expect("a list");
    for (name, least) in [
        ("llama3_1.jinja", 22),
        ("meta-llama-Llama-3.1-8B-Instruct.jinja", 22),
        ("mistralai-Mistral-Nemo-Instruct-2407.jinja", 19),
        ("qwen2_5.jinja", 22),
    ] {
        let source = std::fs::read_to_string(variable("QLORA_TEST_TEMPLATES").join(name))
            .expect("a template");
        let special = SpecialTokens {
            bos: "<s>".into(),
            eos: "</s>".into(),
        };
        let template = ChatTemplate::new(&source, special).expect("a template that compiles");
        let mut covered = 0;
        for row in rows {
            let list = |key: &str| row[key].as_array().cloned().unwrap_or_default();
            let conversation = Conversation {
                messages: list("messages"),
                tools: list("tools"),
            };
            let Ok(rendered) = template.render(&conversation) else {
                continue;
            };
            covers_the_assistant(
                &rendered,
                &conversation,
                &format!("{name}, {}", row["name"]),
            );
            covered += 1;
        }
        assert!(covered >= least, "{name}: only {covered} conversations");
    }
}

/// Whether `at` lies between `<|` or `<｜` and the next `>`.
fn inside_a_token(text: &str, at: usize) -> bool {
    let opened = text[..at].rfind(['<', '>']);
    opened.is_some_and(|open| {
        let inner = &text[open..at];
        (inner.starts_with("<|") || inner.starts_with("<\u{ff5c}"))
            && text[at..].starts_with(|c| c != '<')
            && {
                let rest = text[at..].split('<').next().unwrap_or_default();
                rest.contains('>') && !inner.contains(char::is_whitespace)
            }
    })
}

/// Reasoning that the generation prompt opens for the model: the marked twins count it to a turn.
fn given(template: &ChatTemplate, conversation: &Conversation) -> &'static str {
    const GIVEN: [&str; 3] = ["<think>\n\n</think>\n\n", "<think></think>", "<think>\n"];
    let prompt = template
        .text(&conversation.question(), true)
        .unwrap_or_default();
    GIVEN
        .into_iter()
        .find(|given| prompt.ends_with(given))
        .unwrap_or_default()
}

/// The parts of marked twins without what the twins count to a turn and we do not: the header, what
/// the prompt gives, white space, and a line feed that stands behind the end of the turn.
fn without_headers(parts: &[&str], headers: &[&str], given: &str) -> String {
    let bare = |part: &&str| {
        let part = part.trim_start();
        let part = headers
            .iter()
            .find_map(|header| part.strip_prefix(header))
            .unwrap_or(part);
        part.strip_prefix(given).unwrap_or(part).trim().to_owned()
    };
    parts.iter().map(bare).collect::<Vec<_>>().concat()
}

#[test]
fn masks_are_those_of_the_marked_twins() {
    const HEADERS: [&str; 3] = [
        "<\u{ff5c}Assistant\u{ff5c}>",
        "<|start|>assistant",
        "<\u{ff5c}tool\u{2581}outputs\u{2581}end\u{ff5c}>",
    ];
    let (conversations, templates) = (conversations(), rendered_by_transformers());
    let mut compared = 0;
    let mut faults = Vec::new();
    for (name, of) in &templates {
        let Some(twin) = templates.get(&name.replace(".jinja", "_training.jinja")) else {
            continue;
        };
        let (bare, marked) = (template(of), template(twin));
        for (what, conversation) in &conversations {
            let (Ok(found), Ok(wanted)) = (bare.render(conversation), marked.render(conversation))
            else {
                continue;
            };
            if found.text != wanted.text {
                continue;
            }
            let given = given(&bare, conversation);
            let parts = |rendered: &Rendered| {
                let parts: Vec<&str> = rendered
                    .assistant
                    .iter()
                    .map(|part| &rendered.text[part.clone()])
                    .collect();
                // Phi-3 writes a second end behind the last turn.
                let text = without_headers(&parts, &HEADERS, given);
                text.trim_end_matches("</s>").trim_end().to_owned()
            };
            let (found, wanted) = (parts(&found), parts(&wanted));
            if found != wanted {
                faults.push(format!(
                    "{name}, {what}\n  ours {found:?}\n  twin {wanted:?}"
                ));
            }
            compared += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(compared > 250, "only {compared} conversations");
}

#[test]
fn a_date_is_the_same_every_day_and_can_be_set() {
    let source = "{{ strftime_now('%d %B %Y, %A, %-d %b %j %H:%M') }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let (_, conversation) = conversations().remove(0);
    let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
    let text = template.text(&conversation, false).expect("text");
    assert!(
        text.starts_with("26 July 2024, Friday, 26 Jul 208 00:00Hi"),
        "{text}"
    );
    let template = template.dated("2031-01-02").expect("a date");
    assert!(
        template
            .text(&conversation, false)
            .expect("text")
            .starts_with("02 January 2031, Thursday, 2 Jan 002 00:00Hi")
    );
    let template = ChatTemplate::new(source, SpecialTokens::default()).expect("a template");
    assert!(
        template
            .dated("2031-13-02")
            .expect_err("no date")
            .to_string()
            .contains("2031-13-02")
    );
}
