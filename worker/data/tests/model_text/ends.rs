//! Answers and texts are trained on whole, with one end each.

use std::fs;

use qlora_data::audit::{Audit, Ruler};
use qlora_data::{DatasetError, Encoder, Example, ModelText, Policy, TooLong, examples, load};
use serde_json::{Value, json};

use super::{PLAIN, chat, folder, tokenizer, trained_on};

#[test]
fn the_end_of_a_turn_is_trained_on_or_told() {
    let template = PLAIN;
    let outside = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}";
    let map = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    for (what, files, wanted) in [
        (
            "settings",
            vec![
                ("tokenizer_config.json", json!({"eos_token": "</s>"})),
                ("chat_template.jinja", template.into()),
            ],
            ["a</s>", "ends"],
        ),
        (
            "the map",
            vec![
                ("special_tokens_map.json", map),
                ("chat_template.jinja", template.into()),
            ],
            ["a</s>", "ends"],
        ),
        (
            "nowhere",
            vec![("chat_template.jinja", template.into())],
            ["a", "endless"],
        ),
        (
            "outside",
            vec![("chat_template.jinja", outside.into())],
            ["a", "endless"],
        ),
    ] {
        let home = folder(&files);
        let text = ModelText::open(home.path()).expect(what);
        assert_eq!(
            trained_on(&text, &Example::Chat(chat(false))),
            wanted,
            "{what}"
        );
    }
}

#[test]
fn texts_have_one_beginning_and_one_end() {
    let home = folder(&[
        (
            "tokenizer_config.json",
            json!({"bos_token": "<s>", "eos_token": "</s>"}),
        ),
        ("chat_template.jinja", PLAIN.into()),
    ]);
    for adds_bos in [false, true] {
        tokenizer(home.path(), adds_bos);
        let text = ModelText::open(home.path()).expect("a model");
        let start = if adds_bos { "<s>" } else { "" };
        for (given, wanted) in [
            ("a", format!("{start}a</s>")),
            ("<s>a", "<s>a</s>".into()),
            ("<s>a</s>", "<s>a</s>".into()),
        ] {
            assert_eq!(
                trained_on(&text, &Example::Text(given.into())),
                [wanted, "ends".into()],
                "{given} {adds_bos}"
            );
        }
    }
}

#[test]
fn an_answer_that_the_template_leaves_out_is_refused() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let home = folder(&[("chat_template.jinja", source.into())]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "open_gate"}]}]});
    let example = Example::from_value(row).expect("an example");
    let fault = Encoder::new(tokenizer, &template)
        .encode(tokenizer, &template, &example)
        .expect_err("a fault")
        .to_string();
    assert!(
        fault.contains("message 1: the chat template leaves out the call of `open_gate`"),
        "{fault}"
    );
}

#[test]
fn rows_that_are_cut_or_do_not_end_are_named() {
    let home = folder(&[
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
        ("chat_template.jinja", PLAIN.into()),
    ]);
    let rows = home.path().join("rows.jsonl");
    let row = |answer: &str| {
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}).to_string()
    };
    let long = row(&"long ".repeat(20));
    let lines: Vec<String> = (0..20)
        .map(|at| if at % 2 == 1 { long.clone() } else { row("a") })
        .collect();
    fs::write(&rows, format!("\u{feff}{}", lines.join("\n"))).expect("a file");
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let policy = |too_long| Policy {
        max_seq_len: 40,
        too_long,
        vocabulary: 259,
        limit: None,
    };
    let (_, found) = load(
        &rows,
        "rows.jsonl",
        tokenizer,
        &template,
        policy(TooLong::Truncate),
    )
    .expect("samples");
    assert_eq!((found.rows, found.truncated), (20, 10));
    let warnings = found.warnings("rows", 40);
    let places = "rows.jsonl:2, rows.jsonl:4, rows.jsonl:6, rows.jsonl:8, rows.jsonl:10 and 5 more";
    assert!(
        warnings.len() == 1 && warnings[0].contains(places),
        "{warnings:?}"
    );
    // Without an end of turn, all rows are named.
    let bare = home.path().join("chat_template.jinja");
    fs::write(&bare, PLAIN.replace("{{ eos_token }}", "\n")).expect("a file");
    let text = ModelText::open(home.path()).expect("a model");
    let template = text.chat_template("auto").expect("a template");
    let (_, found) = load(
        &rows,
        "rows.jsonl",
        tokenizer,
        &template,
        policy(TooLong::Skip),
    )
    .expect("samples");
    let warnings = found.warnings("rows", 40);
    assert!(
        warnings.len() == 1 && warnings[0].contains("rows.jsonl:1, rows.jsonl:3"),
        "{warnings:?}"
    );
    let mut audit = Audit::default().measured_by(Ruler {
        tokenizer: tokenizer.clone(),
        template,
        limit: 40,
        vocabulary: None,
    });
    for row in qlora_data::rows::open(&rows, "r").expect("rows") {
        audit.row(row.expect("a row"));
    }
    let lengths = audit.summary().tokens.expect("lengths");
    assert_eq!(
        qlora_data::named(&lengths.above_limit_first, lengths.above_limit),
        "r:2, r:4, r:6, r:8, r:10 and 5 more"
    );
    assert_eq!((lengths.endless, lengths.endless_first.len()), (20, 5));
}

#[test]
fn a_row_of_which_a_message_or_the_tools_are_left_out_is_refused_before_training() {
    let source = "{% for m in messages if m.role in ['user', 'assistant'] %}{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let home = folder(&[("chat_template.jinja", source.into())]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let encoder = Encoder::new(tokenizer, &template);
    let encoded = |row: Value| {
        let example = Example::from_value(row).expect("an example");
        encoder.encode(tokenizer, &template, &example)
    };
    let (asked, said) = (
        json!({"role": "user", "content": "q"}),
        json!({"role": "assistant", "content": "a"}),
    );
    for role in ["system", "developer"] {
        let first = json!({"role": role, "content": "s"});
        let fault = encoded(json!({"messages": [first, asked, said]})).expect_err(role);
        let told = format!(
            "message 0: the chat template leaves out what this message of the role `{role}` says"
        );
        assert!(fault.to_string().starts_with(&told), "{fault}");
        assert_eq!(fault.code().to_string(), "Q0204");
    }
    let fault = encoded(json!({"messages": [asked, said], "tools": [{"name": "f"}]}));
    let fault = fault.expect_err("tools").to_string();
    assert!(
        fault.contains("writes none of the row's `tools`"),
        "{fault}"
    );
    let reasoned = json!({"role": "assistant", "content": "a", "reasoning_content": "r"});
    let row = encoded(json!({"messages": [asked, reasoned]})).expect("tokens");
    assert_eq!(row.unwritten_fields, ["reasoning_content"]);
}

#[test]
fn a_file_without_rows_is_refused() {
    let home = folder(&[("chat_template.jinja", PLAIN.into())]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let policy = Policy {
        max_seq_len: 40,
        too_long: TooLong::Error,
        vocabulary: 259,
        limit: None,
    };
    let rows = home.path().join("rows");
    for nothing in ["", "[]", "\n\n", " \n[ \n]\n", "\u{feff}"] {
        fs::write(&rows, nothing).expect("a file");
        let read = examples(&rows, "rows").err();
        assert!(
            matches!(read, Some(DatasetError::Empty { .. })),
            "{nothing:?}"
        );
        let fault = load(&rows, "rows", tokenizer, &template, policy).expect_err("no rows");
        assert!(
            fault.to_string().starts_with("rows holds no rows"),
            "{nothing:?}: {fault}"
        );
    }
}
