//! Sequences beyond the model's positions and token ids beyond its embedding: left out with a
//! count, or refused in words; nothing panics.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use qlora_config::{DeviceKind, FlashAttention};
use qlora_trainer::score::{Answerer, Conversation, Subject};
use qlora_trainer::scores::Scores;
use serde_json::{Value, json};
use toy::{config, model, tensors};

const POSITIONS: usize = 96;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn model(&self) -> PathBuf {
        let mut config = config();
        config["max_position_embeddings"] = POSITIONS.into();
        // No end: an answer goes on to its limit.
        config["eos_token_id"] = Value::Null;
        model(&self.0.path().join("model"), &config, &tensors())
    }

    fn answerer(&self, model: &Path, max_new_tokens: usize) -> Answerer {
        let template = "{% for m in messages %}{{ m.content or '' }}{% endfor %}";
        self.answerer_with(template, model, max_new_tokens)
    }

    fn answerer_with(&self, template: &str, model: &Path, max_new_tokens: usize) -> Answerer {
        let template = template.to_owned();
        let config = &toy::held_as("none");
        let subject = Subject {
            model: model.into(),
            adapter: None,
            config,
            template,
            max_new_tokens,
            device: DeviceKind::Cpu,
            attention: FlashAttention::Auto,
        };
        Answerer::open(&subject).expect("a model")
    }

    fn score(&self, answerer: &Answerer, rows: &[Value]) -> Result<Scores, String> {
        let file = self.0.path().join("rows.jsonl");
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        fs::write(&file, lines.join("\n")).expect("rows");
        answerer
            .score(&file, "rows.jsonl", usize::MAX, |_| Ok(()))
            .map_err(|e| e.to_string())
    }
}

fn row(question: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

fn question(text: &str) -> Conversation {
    Conversation {
        messages: vec![json!({"role": "user", "content": text})],
        tools: Vec::new(),
    }
}

#[test]
fn rows_of_more_tokens_than_positions_are_left_out_and_counted() {
    let home = Home::new();
    let answerer = home.answerer(&home.model(), 8);
    let (short, long) = (
        row("What is it?", "A test."),
        row(&"7".repeat(3 * POSITIONS), "Yes."),
    );
    let alone = home
        .score(&answerer, std::slice::from_ref(&short))
        .expect("scores");
    assert_eq!((alone.rows, alone.left_out), (1, 0));
    let end = row("Why?", &"9".repeat(3 * POSITIONS));
    let mixed = home
        .score(&answerer, &[long.clone(), short, end])
        .expect("scores");
    assert_eq!((mixed.rows, mixed.left_out, mixed.loss), (1, 2, alone.loss));
    let none = home
        .score(&answerer, &[long.clone(), long])
        .expect_err("nothing is scored");
    assert!(
        none.contains("2 rows") && none.contains("96 positions"),
        "{none}"
    );
}

#[test]
fn an_answer_ends_at_the_last_position() {
    let home = Home::new();
    let answerer = home.answerer(&home.model(), 10 * POSITIONS);
    for length in [1, POSITIONS / 2, POSITIONS - 1, POSITIONS] {
        answerer
            .answer(&question(&"?".repeat(length)))
            .expect("an answer");
    }
    let fault = answerer
        .answer(&question(&"7".repeat(3 * POSITIONS)))
        .expect_err("there is no such position");
    assert!(fault.to_string().contains("96 positions"), "{fault}");
}

#[test]
fn a_question_that_leaves_no_position_has_a_wrong_answer_and_no_end_of_the_run() {
    let home = Home::new();
    // The prompt for an answer fills all positions, and the row without it fits.
    let template = [
        "{% for t in tools or [] %}{{ t.function.name }}: {% endfor %}",
        "{% for m in messages %}{{ m.content or '' }}",
        "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}",
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}",
        &"7".repeat(3 * POSITIONS),
        "{% endif %}",
    ]
    .concat();
    let answerer = home.answerer_with(&template, &home.model(), 8);
    let calls = json!([{"type": "function", "function": {"name": "go", "arguments": {}}}]);
    let tools =
        json!([{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}]);
    let messages = json!([{"role": "user", "content": "Now?"},
                          {"role": "assistant", "content": "", "tool_calls": calls}]);
    let scored = home.score(&answerer, &[json!({"messages": messages, "tools": tools})]);
    assert!(scored.is_ok_and(|scores| scores.calls.is_some_and(|calls| calls.exact_match == 0.0)));
}

#[test]
fn a_token_beyond_the_embedding_is_named_with_its_row() {
    let home = Home::new();
    let folder = home.model();
    let path = folder.join("tokenizer.json");
    let mut tokenizer: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    let token = json!({"id": toy::VOCABULARY, "content": "<think>", "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": false});
    tokenizer["added_tokens"]
        .as_array_mut()
        .expect("a list")
        .push(token);
    fs::write(&path, tokenizer.to_string()).expect("a tokenizer");
    let answerer = home.answerer(&folder, 8);
    let fault = home
        .score(&answerer, &[row("Hello", "<think>yes")])
        .expect_err("there is no such row");
    assert!(
        fault.contains("rows.jsonl:1") && fault.contains("900"),
        "{fault}"
    );
    let fault = answerer
        .answer(&question("<think>"))
        .expect_err("there is no such row");
    assert!(fault.to_string().contains("token id 900"), "{fault}");
}

#[test]
fn a_template_that_writes_nothing_is_refused_and_nothing_panics() {
    let home = Home::new();
    let folder = home.model();
    for template in [
        "{{ x }}",
        "{# nothing #}{% if false %}a{% endif %}",
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}",
    ] {
        let answerer = home.answerer_with(template, &folder, 4);
        let fault = answerer.answer(&question("Hello")).expect_err(template);
        assert_eq!(fault.code().id(), "Q0204", "{fault}");
        assert_eq!(fault.failure_class(), qlora_trainer::FailureClass::Input);
        assert!(fault.to_string().contains("--template"), "{fault}");
    }
    // The same of a prompt that is empty.
    let answerer = home.answerer(&folder, 4);
    assert!(answerer.answer(&question("")).is_err());
}

#[test]
fn a_score_over_nothing_is_refused() {
    let home = Home::new();
    let folder = home.model();
    let answerer = home.answerer(&folder, 4);
    let file = home.0.path().join("rows.jsonl");
    let one = row("Why?", "Yes.").to_string();
    for (text, rows, told) in [
        (
            "",
            usize::MAX,
            "rows.jsonl holds no rows; a row is one line",
        ),
        ("\n\n", usize::MAX, "rows.jsonl holds no rows"),
        ("[]", usize::MAX, "rows.jsonl holds no rows"),
        (one.as_str(), 0, "no row of it is asked for"),
    ] {
        fs::write(&file, text).expect("rows");
        let fault = answerer.score(&file, "rows.jsonl", rows, |_| Ok(()));
        let fault = fault.expect_err(text);
        assert!(fault.to_string().contains(told), "{text}: {fault}");
        assert_eq!(fault.code().id(), "Q0203", "{text}");
        assert_eq!(fault.failure_class(), qlora_trainer::FailureClass::Input);
    }
    for template in [
        "{{ x }}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    ] {
        let deaf = home.answerer_with(template, &folder, 4);
        let fault = home
            .score(&deaf, &[row("Why?", "Yes.")])
            .expect_err(template);
        assert!(
            fault.contains("rows.jsonl:1") && fault.contains("leaves out the answer"),
            "{fault}"
        );
    }
}

#[test]
fn a_row_that_a_training_refuses_is_not_scored() {
    let home = Home::new();
    let template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}";
    let answerer = home.answerer_with(template, &home.model(), 4);
    let whole = row("Why?", "Yes.");
    home.score(&answerer, std::slice::from_ref(&whole))
        .expect("scores");
    let mut more = whole.clone();
    let system = json!({"role": "system", "content": "Be brief."});
    let messages = more["messages"].as_array_mut().expect("messages");
    messages.insert(0, system);
    let fault = home
        .score(&answerer, &[whole, more])
        .expect_err("the model reads no system message");
    assert!(
        fault.contains("rows.jsonl:2") && fault.contains("`system`"),
        "{fault}"
    );
}
