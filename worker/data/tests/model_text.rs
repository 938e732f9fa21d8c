//! Folders of models: which template is taken, where special tokens stand, and which texts teach what they seem to.

use std::fs;
use std::path::Path;

use qlora_data::audit::{Audit, Ruler};
use qlora_data::rows::{Place, Row};
use qlora_data::{
    Conversation, EncodeError, Encoder, Example, IGNORE, Lacking, ModelText, Policy, TemplateError, TooLong, load,
};
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

#[test]
fn a_template_of_the_model_is_chosen_by_its_name() {
    let own = |name: &str| format!("{name}{{% for m in messages %}} {{{{ m.content }}}}{{% endfor %}}");
    let (plain, rag, tools) = (own("plain"), own("rag"), own("tools"));
    let list = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": tools}, {"name": "rag", "template": rag}]);
    for (what, files) in [
        ("a list", vec![("tokenizer_config.json", json!({"chat_template": list}))]),
        (
            "an object",
            vec![(
                "tokenizer_config.json",
                json!({"chat_template": {"default": plain, "tool_use": tools, "rag": rag}}),
            )],
        ),
        (
            "a folder",
            vec![
                ("chat_template.jinja", plain.as_str().into()),
                ("additional_chat_templates/tool_use.jinja", tools.as_str().into()),
                ("additional_chat_templates/rag.jinja", rag.as_str().into()),
            ],
        ),
    ] {
        let home = folder(&files);
        let text = ModelText::open(home.path()).expect(what);
        for (wanted, without, with) in [
            ("auto", "plain", "tools"),
            ("rag", "rag", "rag"),
            ("default", "plain", "plain"),
            ("tool_use", "tools", "tools"),
        ] {
            let template = text.chat_template(wanted).expect(wanted);
            assert_eq!(template.text(&chat(false), false).expect(what), format!("{without} q a"), "{what}, {wanted}");
            assert_eq!(template.text(&chat(true), false).expect(what), format!("{with} q a"), "{what}, {wanted}");
        }
        let fault = text.chat_template("rags").expect_err(what).to_string();
        assert!(["`rags`", "`default`", "`rag`", "`tool_use`"].iter().all(|name| fault.contains(name)), "{fault}");
        assert!(text.chat_template("chatml-tools").is_ok() && text.chat_template("{{ messages }}").is_ok());
    }
    assert!(matches!(ModelText::open(folder(&[]).path()).expect("a model").chat_template("rag"), Err(Lacking::None)));
}

#[test]
fn special_tokens_that_the_tokenizer_lacks_are_refused_by_name() {
    for (file, settings, named) in [
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"}), "`eos_token` is `<|im_end|>`"),
        ("tokenizer_config.json", json!({"bos_token": {"content": "[BOS]"}}), "`bos_token` is `[BOS]`"),
        ("special_tokens_map.json", json!({"pad_token": "<pad>"}), "`pad_token` is `<pad>`"),
        ("special_tokens_map.json", json!({"eos_token": {"content": "</t>"}}), "`eos_token` is `</t>`"),
        (
            "tokenizer_config.json",
            json!({"additional_special_tokens": ["<s>", "<x>"]}),
            "`additional_special_tokens` is `<x>`",
        ),
        (
            "tokenizer_config.json",
            json!({"extra_special_tokens": {"image": "<img>"}}),
            "`extra_special_tokens` is `<img>`",
        ),
    ] {
        let fault = ModelText::open(folder(&[(file, settings)]).path()).expect_err(named);
        assert!(fault.path.ends_with(file) && fault.fault.contains(named), "{fault}");
    }
    let known = json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}, "pad_token": null, "unk_token": "", "additional_special_tokens": ["<|end|>"]});
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        assert_eq!(ModelText::open(folder(&[(file, known.clone())]).path()).expect(file).special.eos, "</s>");
    }
}

#[test]
fn a_byte_order_mark_before_a_file_is_no_content() {
    let files = [
        ("tokenizer_config.json", json!({"eos_token": "</s>"})),
        ("special_tokens_map.json", json!({"bos_token": "<s>"})),
        ("config.json", json!({"vocab_size": 259})),
        ("chat_template.jinja", PLAIN.into()),
        ("additional_chat_templates/rag.jinja", PLAIN.into()),
    ];
    let home = folder(&files);
    for name in files.iter().map(|(name, _)| *name).chain(["tokenizer.json"]) {
        let path = home.path().join(name);
        let text = fs::read_to_string(&path).expect("a file");
        fs::write(&path, format!("\u{feff}{text}")).expect("a file");
    }
    let text = ModelText::open(home.path()).expect("a model");
    assert_eq!((text.special.eos.as_str(), text.special.bos.as_str(), text.vocabulary), ("</s>", "<s>", Some(259)));
    for wanted in ["auto", "rag"] {
        let template = text.chat_template(wanted).expect(wanted);
        assert_eq!(template.text(&chat(false), false).expect(wanted), "user: q</s>assistant: a</s>");
    }
    // The settings' own list, and the older file.
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let home = folder(&[]);
        fs::write(home.path().join(name), format!("\u{feff}{}", json!({"chat_template": PLAIN}))).expect("a file");
        assert!(ModelText::open(home.path()).expect("a model").chat_template("auto").is_ok(), "{name}");
    }
}

#[test]
fn rows_that_are_cut_or_do_not_end_are_named() {
    let home =
        folder(&[("tokenizer_config.json", json!({"eos_token": "</s>"})), ("chat_template.jinja", PLAIN.into())]);
    let rows = home.path().join("rows.jsonl");
    let row = |answer: &str| {
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}).to_string()
    };
    let long = row(&"long ".repeat(20));
    let lines: Vec<String> = (0..20).map(|at| if at % 2 == 1 { long.clone() } else { row("a") }).collect();
    fs::write(&rows, format!("\u{feff}{}", lines.join("\n"))).expect("a file");
    let text = ModelText::open(home.path()).expect("a model");
    let (tokenizer, template) =
        (text.tokenizer.as_ref().expect("a tokenizer"), text.chat_template("auto").expect("a template"));
    let policy = |too_long| Policy { max_seq_len: 40, too_long, vocabulary: 259, limit: None };
    let (_, found) = load(&rows, "rows.jsonl", tokenizer, &template, policy(TooLong::Truncate)).expect("samples");
    assert_eq!((found.rows, found.truncated), (20, 10));
    let warnings = found.warnings("rows", 40);
    let places = "rows.jsonl:2, rows.jsonl:4, rows.jsonl:6, rows.jsonl:8, rows.jsonl:10 and 5 more";
    assert!(warnings.len() == 1 && warnings[0].contains(places), "{warnings:?}");
    // Without an end of turn, all rows are named.
    let bare = home.path().join("chat_template.jinja");
    fs::write(&bare, PLAIN.replace("{{ eos_token }}", "\n")).expect("a file");
    let text = ModelText::open(home.path()).expect("a model");
    let template = text.chat_template("auto").expect("a template");
    let (_, found) = load(&rows, "rows.jsonl", tokenizer, &template, policy(TooLong::Skip)).expect("samples");
    let warnings = found.warnings("rows", 40);
    assert!(warnings.len() == 1 && warnings[0].contains("rows.jsonl:1, rows.jsonl:3"), "{warnings:?}");
    let mut audit =
        Audit::default().measured_by(Ruler { tokenizer: tokenizer.clone(), template, limit: 40, vocabulary: None });
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
