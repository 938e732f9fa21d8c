//! Tokens that a row must not hold, and characters that have none.

use qlora_data::audit::{Audit, Ruler};
use qlora_data::rows::{Place, Row};
use qlora_data::{EncodeError, Encoder, Example, ModelText};
use serde_json::json;

use super::{PLAIN, TOOLS, change, chat, folder, trained_on};

#[test]
fn ids_that_the_model_lacks_are_found_with_their_row() {
    let settings = ("tokenizer_config.json", json!({"eos_token": "</s>"}));
    // The tokenizer has 259 ids, of which the last are those of bytes.
    for (config, found) in [
        (json!({"vocab_size": 259}), false),
        (json!({"vocab_size": 150}), true),
        (json!({"text_config": {"vocab_size": 150}}), true),
        (json!({}), false),
    ] {
        let home = folder(&[
            settings.clone(),
            ("chat_template.jinja", PLAIN.into()),
            ("config.json", config.clone()),
        ]);
        let text = ModelText::open(home.path()).expect("a model");
        let template = text.chat_template("auto").expect("a template");
        let (vocabulary, tokenizer) = (text.vocabulary, text.tokenizer.expect("a tokenizer"));
        let mut audit = Audit::default().measured_by(Ruler {
            tokenizer,
            template,
            limit: 100,
            vocabulary,
        });
        let value = json!({"messages": [{"role": "user", "content": "\u{fd}"}, {"role": "assistant", "content": "a"}]});
        let audited = audit.row(Row {
            place: Place {
                file: "f".into(),
                line: 7,
            },
            value: Ok(value),
        });
        assert_eq!(
            audited.findings.len(),
            usize::from(found),
            "{config}: {:?}",
            audited.findings
        );
        assert!(
            audited
                .findings
                .iter()
                .all(|text| text.contains("outside the model's vocabulary of 150"))
        );
        assert_eq!(audited.place.to_string(), "f:7");
    }
}

#[test]
fn control_tokens_in_the_data_are_found_wherever_they_stand() {
    let home = folder(&[
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
        (
            "chat_template.jinja",
            TOOLS
                .replace("tools | length", "tools[0].function.name")
                .into(),
        ),
    ]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let encoder = Encoder::new(tokenizer, &template);
    let row = |user: &str, argument: &str, description: &str| {
        let row = json!({"messages": [
            {"role": "user", "content": user},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": [argument]}}]}
        ], "tools": [{"name": "f", "description": description}]});
        Example::from_value(row).expect("an example")
    };
    assert!(
        encoder
            .encode(tokenizer, &template, &row("1 < 2 </ s>", "<end>", "< /s>"))
            .is_ok()
    );
    for (example, wanted) in [
        (row("What is </s> for?", "x", "d"), ("message 0", "</s>")),
        (row("q", "a<|end|>", "d"), ("message 1", "<|end|>")),
        (row("q", "x", "<s>"), ("tool 0", "<s>")),
    ] {
        match encoder.encode(tokenizer, &template, &example) {
            Err(EncodeError::Control { place, token }) => {
                assert_eq!((place.as_str(), token.as_str()), wanted)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rows_are_whole_whatever_a_tokenizer_was_saved_with() {
    let home = folder(&[
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
        ("chat_template.jinja", PLAIN.into()),
    ]);
    let wanted = trained_on(
        &ModelText::open(home.path()).expect("a model"),
        &Example::Chat(chat(false)),
    );
    change(home.path(), |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
    });
    let text = ModelText::open(home.path()).expect("a model");
    assert_eq!(trained_on(&text, &Example::Chat(chat(false))), wanted);
    assert_eq!(
        trained_on(&text, &Example::Text("long text".into())),
        ["long text</s>", "ends"]
    );
}

#[test]
fn characters_without_a_token_are_named() {
    let home = folder(&[
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
        ("chat_template.jinja", PLAIN.into()),
    ]);
    // The second byte of `ü` has no token.
    change(home.path(), |tokenizer| {
        tokenizer["model"]["vocab"]
            .as_object_mut()
            .expect("a vocabulary")
            .remove("\u{bc}");
    });
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let row = json!({"messages": [{"role": "user", "content": "öü"}, {"role": "assistant", "content": "a"}]});
    for example in [
        Example::from_value(row).expect("an example"),
        Example::Text("öüa".into()),
    ] {
        let fault = Encoder::new(tokenizer, &template)
            .encode(tokenizer, &template, &example)
            .expect_err("a fault");
        assert!(matches!(fault, EncodeError::Dropped('ü')), "{fault}");
    }
    assert_eq!(
        trained_on(&text, &Example::Text("öa".into())),
        ["öa</s>", "ends"]
    );
}
