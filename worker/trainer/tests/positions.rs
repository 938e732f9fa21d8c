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
        let template = "{% for m in messages %}{{ m.content or '' }}{% endfor %}".to_owned();
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
    let answerer = home.answerer(&home.model(), 8);
    let calls = json!([{"type": "function", "function": {"name": "go", "arguments": {}}}]);
    let tools =
        json!([{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}]);
    // The template shows the question alone, so that it fills all positions and the row still fits.
    let messages = json!([{"role": "user", "content": "?".repeat(POSITIONS)},
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
                       "rstrip": false, "normalized": false, "special": true});
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
