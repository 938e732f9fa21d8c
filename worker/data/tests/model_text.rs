//! Folders of models: which template is taken, where special tokens stand, and which texts teach what they seem to.

use std::fs;
use std::path::Path;

use qlora_data::audit::{Audit, Ruler};
use qlora_data::rows::{Place, Row};
use qlora_data::{Conversation, EncodeError, Encoder, Example, IGNORE, Lacking, ModelText, TemplateError};
use serde_json::{Value, json};

const PLAIN: &str = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
const TOOLS: &str =
    "TOOLS {{ tools | length }} {% for m in messages %}{{ m.content or (m.tool_calls | tojson) }}{% endfor %}";

/// A tokenizer of bytes with `<s>`, `</s>` and `<|end|>`, written into `folder`.
fn tokenizer(folder: &Path, adds_bos: bool) {
    let plain = |b: &u8| (33..127).contains(b) || (161..173).contains(b) || *b >= 174;
    let mut extra = 256u32..;
    let mut name =
        |b: u8| if plain(&b) { char::from(b) } else { extra.next().and_then(char::from_u32).expect("a character") };
    let special = ["<s>", "</s>", "<|end|>"];
    let names = special.iter().map(|t| (*t).to_owned()).chain((0..=255).map(|b| name(b).to_string()));
    let vocabulary: Value = names.enumerate().map(|(id, name)| (name, json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, text)| {
            json!({"id": id, "content": text, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let post = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []});
    let whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": if adds_bos { post } else { Value::Null }, "decoder": level, "model": model});
    fs::write(folder.join("tokenizer.json"), whole.to_string()).expect("a file");
}

/// A folder with these files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    tokenizer(home.path(), false);
    for (name, content) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        let text =
            content.as_str().filter(|_| name.ends_with("jinja")).map_or_else(|| content.to_string(), str::to_owned);
        fs::write(path, text).expect("a file");
    }
    home
}

fn chat(tools: bool) -> Conversation {
    let mut row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    if tools {
        row["tools"] = json!([{"name": "f"}]);
    }
    Conversation::from_value(row).expect("a conversation")
}

#[test]
fn the_template_is_chosen_as_transformers_does() {
    let list = json!({"eos_token": "</s>", "chat_template": [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}]});
    let one = json!({"eos_token": {"content": "</s>"}, "chat_template": PLAIN});
    let other = json!({"eos_token": "</s>", "chat_template": "wrong"});
    for (what, files) in [
        ("a list", vec![("tokenizer_config.json", list)]),
        (
            "beside the default",
            vec![
                ("tokenizer_config.json", one.clone()),
                ("chat_template.jinja", PLAIN.into()),
                ("additional_chat_templates/tool_use.jinja", TOOLS.into()),
            ],
        ),
        (
            "files over settings",
            vec![
                ("tokenizer_config.json", other),
                ("chat_template.jinja", PLAIN.into()),
                ("additional_chat_templates/tool_use.jinja", TOOLS.into()),
            ],
        ),
        (
            "the older file",
            vec![
                ("tokenizer_config.json", json!({"eos_token": "</s>"})),
                ("chat_template.json", json!({"chat_template": {"default": PLAIN, "tool_use": TOOLS}})),
            ],
        ),
    ] {
        let home = folder(&files);
        let template = ModelText::open(home.path()).expect(what).chat_template("auto").expect(what);
        assert_eq!(template.text(&chat(false), false).expect(what), "user: q</s>assistant: a</s>", "{what}");
        assert_eq!(template.text(&chat(true), false).expect(what), "TOOLS 1 qa", "{what}");
    }
    let home =
        folder(&[("tokenizer_config.json", json!({"chat_template": [{"name": "tool_use", "template": TOOLS}]}))]);
    let template = ModelText::open(home.path()).expect("a model").chat_template("auto").expect("a template");
    assert!(template.text(&chat(true), false).is_ok());
    let fault = template.text(&chat(false), false).expect_err("a fault");
    assert!(matches!(&fault, TemplateError::NoDefault(names) if names == &["`tool_use`"]), "{fault}");
    // Separate files stand in place of all that the settings have.
    let list =
        json!({"chat_template": [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "old"}]});
    let open = |files: &[(&str, Value)]| {
        ModelText::open(folder(files).path()).expect("a model").chat_template("auto").expect("a template")
    };
    let template = open(&[("tokenizer_config.json", list.clone()), ("chat_template.jinja", TOOLS.into())]);
    assert_eq!(template.text(&chat(true), false).expect("text"), "TOOLS 1 qa");
    let template = open(&[("tokenizer_config.json", list), ("additional_chat_templates/rag.jinja", TOOLS.into())]);
    let fault = template.text(&chat(false), false).expect_err("a fault");
    assert!(matches!(&fault, TemplateError::NoDefault(names) if names == &["`rag`"]), "{fault}");
    let twice =
        json!({"chat_template": [{"name": "default", "template": "old"}, {"name": "default", "template": "new"}]});
    let template = open(&[("tokenizer_config.json", twice)]);
    assert_eq!(template.text(&chat(false), false).expect("text"), "new");
    let home = folder(&[]);
    assert!(matches!(ModelText::open(home.path()).expect("a model").chat_template("auto"), Err(Lacking::None)));
    for (name, content) in [
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", "x"),
        ("tokenizer_config.json", "{\"chat_template\": 3}"),
    ] {
        let home = folder(&[]);
        fs::write(home.path().join(name), content).expect("a file");
        assert!(ModelText::open(home.path()).expect_err("a fault").path.ends_with(name));
    }
}

fn trained_on(text: &ModelText, example: &Example) -> Vec<String> {
    let (tokenizer, template) =
        (text.tokenizer.as_ref().expect("a tokenizer"), text.chat_template("auto").expect("a template"));
    let encoder = Encoder::new(tokenizer, &template);
    let encoded = encoder.encode(tokenizer, &template, example).expect("tokens");
    let labels: Vec<(bool, u32)> = encoded.sample.labels.iter().map(|l| *l != IGNORE).zip(encoded.sample.ids).collect();
    let runs = labels.chunk_by(|a, b| a.0 == b.0).filter(|run| run[0].0);
    let mut parts: Vec<String> = runs
        .map(|run| tokenizer.decode(&run.iter().map(|(_, id)| *id).collect::<Vec<_>>(), false).expect("text"))
        .collect();
    parts.push(if encoded.ends { "ends".into() } else { "endless".into() });
    parts
}

#[test]
fn the_end_of_a_turn_is_trained_on_or_told() {
    let template = PLAIN;
    let outside = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}";
    let map = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    for (what, files, wanted) in [
        (
            "settings",
            vec![("tokenizer_config.json", json!({"eos_token": "</s>"})), ("chat_template.jinja", template.into())],
            ["a</s>", "ends"],
        ),
        (
            "the map",
            vec![("special_tokens_map.json", map), ("chat_template.jinja", template.into())],
            ["a</s>", "ends"],
        ),
        ("nowhere", vec![("chat_template.jinja", template.into())], ["a", "endless"]),
        ("outside", vec![("chat_template.jinja", outside.into())], ["a", "endless"]),
    ] {
        let home = folder(&files);
        let text = ModelText::open(home.path()).expect(what);
        assert_eq!(trained_on(&text, &Example::Chat(chat(false))), wanted, "{what}");
    }
}

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
        let home = folder(&[settings.clone(), ("chat_template.jinja", PLAIN.into()), ("config.json", config.clone())]);
        let text = ModelText::open(home.path()).expect("a model");
        let template = text.chat_template("auto").expect("a template");
        let (vocabulary, tokenizer) = (text.vocabulary, text.tokenizer.expect("a tokenizer"));
        let mut audit = Audit::default().measured_by(Ruler { tokenizer, template, limit: 100, vocabulary });
        let value = json!({"messages": [{"role": "user", "content": "\u{fd}"}, {"role": "assistant", "content": "a"}]});
        let audited = audit.row(Row { place: Place { file: "f".into(), line: 7 }, value: Ok(value) });
        assert_eq!(audited.findings.len(), usize::from(found), "{config}: {:?}", audited.findings);
        assert!(audited.findings.iter().all(|text| text.contains("outside the model's vocabulary of 150")));
        assert_eq!(audited.place.to_string(), "f:7");
    }
}

#[test]
fn texts_have_one_beginning_and_one_end() {
    let home = folder(&[
        ("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "</s>"})),
        ("chat_template.jinja", PLAIN.into()),
    ]);
    for adds_bos in [false, true] {
        tokenizer(home.path(), adds_bos);
        let text = ModelText::open(home.path()).expect("a model");
        let start = if adds_bos { "<s>" } else { "" };
        for (given, wanted) in
            [("a", format!("{start}a</s>")), ("<s>a", "<s>a</s>".into()), ("<s>a</s>", "<s>a</s>".into())]
        {
            assert_eq!(trained_on(&text, &Example::Text(given.into())), [wanted, "ends".into()], "{given} {adds_bos}");
        }
    }
}

#[test]
fn control_tokens_in_the_data_are_found_wherever_they_stand() {
    let home =
        folder(&[("tokenizer_config.json", json!({"eos_token": "</s>"})), ("chat_template.jinja", TOOLS.into())]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) =
        (text.tokenizer.as_ref().expect("a tokenizer"), text.chat_template("auto").expect("a template"));
    let encoder = Encoder::new(tokenizer, &template);
    let row = |user: &str, argument: &str, description: &str| {
        let row = json!({"messages": [
            {"role": "user", "content": user},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": [argument]}}]}
        ], "tools": [{"name": "f", "description": description}]});
        Example::from_value(row).expect("an example")
    };
    assert!(encoder.encode(tokenizer, &template, &row("1 < 2 </ s>", "<end>", "< /s>")).is_ok());
    for (example, wanted) in [
        (row("What is </s> for?", "x", "d"), ("message 0", "</s>")),
        (row("q", "a<|end|>", "d"), ("message 1", "<|end|>")),
        (row("q", "x", "<s>"), ("tool 0", "<s>")),
    ] {
        match encoder.encode(tokenizer, &template, &example) {
            Err(EncodeError::Control { place, token }) => assert_eq!((place.as_str(), token.as_str()), wanted),
            other => panic!("{other:?}"),
        }
    }
}

/// The tokenizer of `folder`, changed.
fn change(folder: &Path, with: impl Fn(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    with(&mut value);
    fs::write(path, value.to_string()).expect("a file");
}

#[test]
fn rows_are_whole_whatever_a_tokenizer_was_saved_with() {
    let home =
        folder(&[("tokenizer_config.json", json!({"eos_token": "</s>"})), ("chat_template.jinja", PLAIN.into())]);
    let wanted = trained_on(&ModelText::open(home.path()).expect("a model"), &Example::Chat(chat(false)));
    change(home.path(), |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
    });
    let text = ModelText::open(home.path()).expect("a model");
    assert_eq!(trained_on(&text, &Example::Chat(chat(false))), wanted);
    assert_eq!(trained_on(&text, &Example::Text("long text".into())), ["long text</s>", "ends"]);
}

#[test]
fn characters_without_a_token_are_named() {
    let home =
        folder(&[("tokenizer_config.json", json!({"eos_token": "</s>"})), ("chat_template.jinja", PLAIN.into())]);
    // The second byte of `ü` has no token.
    change(home.path(), |tokenizer| {
        tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary").remove("\u{bc}");
    });
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) =
        (text.tokenizer.as_ref().expect("a tokenizer"), text.chat_template("auto").expect("a template"));
    let row = json!({"messages": [{"role": "user", "content": "öü"}, {"role": "assistant", "content": "a"}]});
    for example in [Example::from_value(row).expect("an example"), Example::Text("öüa".into())] {
        let fault = Encoder::new(tokenizer, &template).encode(tokenizer, &template, &example).expect_err("a fault");
        assert!(matches!(fault, EncodeError::Dropped('ü')), "{fault}");
    }
    assert_eq!(trained_on(&text, &Example::Text("öa".into())), ["öa</s>", "ends"]);
}

#[test]
fn an_answer_that_the_template_leaves_out_is_refused() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let home = folder(&[("chat_template.jinja", source.into())]);
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) =
        (text.tokenizer.as_ref().expect("a tokenizer"), text.chat_template("auto").expect("a template"));
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "open_gate"}]}]});
    let example = Example::from_value(row).expect("an example");
    let fault =
        Encoder::new(tokenizer, &template).encode(tokenizer, &template, &example).expect_err("a fault").to_string();
    assert!(fault.contains("the call of `open_gate` of message 1"), "{fault}");
}
