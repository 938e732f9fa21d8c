//! Which template of a model is taken, and where its special tokens stand.

use std::fs;

use qlora_data::{Lacking, ModelText, TemplateError};
use serde_json::{Value, json};

use super::{PLAIN, TOOLS, chat, folder};

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
                (
                    "chat_template.json",
                    json!({"chat_template": {"default": PLAIN, "tool_use": TOOLS}}),
                ),
            ],
        ),
    ] {
        let home = folder(&files);
        let template = ModelText::open(home.path())
            .expect(what)
            .chat_template("auto")
            .expect(what);
        assert_eq!(
            template.text(&chat(false), false).expect(what),
            "user: q</s>assistant: a</s>",
            "{what}"
        );
        assert_eq!(
            template.text(&chat(true), false).expect(what),
            "TOOLS 1 qa",
            "{what}"
        );
    }
    let home = folder(&[(
        "tokenizer_config.json",
        json!({"chat_template": [{"name": "tool_use", "template": TOOLS}]}),
    )]);
    let template = ModelText::open(home.path())
        .expect("a model")
        .chat_template("auto")
        .expect("a template");
    assert!(template.text(&chat(true), false).is_ok());
    let fault = template.text(&chat(false), false).expect_err("a fault");
    assert!(
        matches!(&fault, TemplateError::NoDefault(names) if names == &["`tool_use`"]),
        "{fault}"
    );
    // Separate files stand in place of all that the settings have.
    let list = json!({"chat_template": [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "old"}]});
    let open = |files: &[(&str, Value)]| {
        ModelText::open(folder(files).path())
            .expect("a model")
            .chat_template("auto")
            .expect("a template")
    };
    let template = open(&[
        ("tokenizer_config.json", list.clone()),
        ("chat_template.jinja", TOOLS.into()),
    ]);
    assert_eq!(
        template.text(&chat(true), false).expect("text"),
        "TOOLS 1 qa"
    );
    let template = open(&[
        ("tokenizer_config.json", list),
        ("additional_chat_templates/rag.jinja", TOOLS.into()),
    ]);
    let fault = template.text(&chat(false), false).expect_err("a fault");
    assert!(
        matches!(&fault, TemplateError::NoDefault(names) if names == &["`rag`"]),
        "{fault}"
    );
    let twice = json!({"chat_template": [{"name": "default", "template": "old"}, {"name": "default", "template": "new"}]});
    let template = open(&[("tokenizer_config.json", twice)]);
    assert_eq!(template.text(&chat(false), false).expect("text"), "new");
    let home = folder(&[]);
    assert!(matches!(
        ModelText::open(home.path())
            .expect("a model")
            .chat_template("auto"),
        Err(Lacking::None)
    ));
    for (name, content) in [
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", "x"),
        ("tokenizer_config.json", "{\"chat_template\": 3}"),
    ] {
        let home = folder(&[]);
        fs::write(home.path().join(name), content).expect("a file");
        assert!(
            ModelText::open(home.path())
                .expect_err("a fault")
                .path
                .ends_with(name)
        );
    }
}

#[test]
fn a_template_of_the_model_is_chosen_by_its_name() {
    let own =
        |name: &str| format!("{name}{{% for m in messages %}} {{{{ m.content }}}}{{% endfor %}}");
    let (plain, rag, tools) = (own("plain"), own("rag"), own("tools"));
    let list = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": tools}, {"name": "rag", "template": rag}]);
    for (what, files) in [
        (
            "a list",
            vec![("tokenizer_config.json", json!({"chat_template": list}))],
        ),
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
                (
                    "additional_chat_templates/tool_use.jinja",
                    tools.as_str().into(),
                ),
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
            assert_eq!(
                template.text(&chat(false), false).expect(what),
                format!("{without} q a"),
                "{what}, {wanted}"
            );
            assert_eq!(
                template.text(&chat(true), false).expect(what),
                format!("{with} q a"),
                "{what}, {wanted}"
            );
        }
        let fault = text.chat_template("rags").expect_err(what).to_string();
        assert!(
            ["`rags`", "`default`", "`rag`", "`tool_use`"]
                .iter()
                .all(|name| fault.contains(name)),
            "{fault}"
        );
        assert!(
            text.chat_template("chatml-tools").is_ok()
                && text.chat_template("{{ messages }}").is_ok()
        );
    }
    assert!(matches!(
        ModelText::open(folder(&[]).path())
            .expect("a model")
            .chat_template("rag"),
        Err(Lacking::None)
    ));
}

#[test]
fn special_tokens_that_the_tokenizer_lacks_are_refused_by_name() {
    for (file, settings, named) in [
        (
            "tokenizer_config.json",
            json!({"eos_token": "<|im_end|>"}),
            "`eos_token` is `<|im_end|>`",
        ),
        (
            "tokenizer_config.json",
            json!({"bos_token": {"content": "[BOS]"}}),
            "`bos_token` is `[BOS]`",
        ),
        (
            "special_tokens_map.json",
            json!({"pad_token": "<pad>"}),
            "`pad_token` is `<pad>`",
        ),
        (
            "special_tokens_map.json",
            json!({"eos_token": {"content": "</t>"}}),
            "`eos_token` is `</t>`",
        ),
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
        assert!(
            fault.path.ends_with(file) && fault.fault.contains(named),
            "{fault}"
        );
    }
    let known = json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}, "pad_token": null, "unk_token": "", "additional_special_tokens": ["<|end|>"]});
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        assert_eq!(
            ModelText::open(folder(&[(file, known.clone())]).path())
                .expect(file)
                .special
                .eos,
            "</s>"
        );
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
    for name in files
        .iter()
        .map(|(name, _)| *name)
        .chain(["tokenizer.json"])
    {
        let path = home.path().join(name);
        let text = fs::read_to_string(&path).expect("a file");
        fs::write(&path, format!("\u{feff}{text}")).expect("a file");
    }
    let text = ModelText::open(home.path()).expect("a model");
    assert_eq!(
        (
            text.special.eos.as_str(),
            text.special.bos.as_str(),
            text.vocabulary
        ),
        ("</s>", "<s>", Some(259))
    );
    for wanted in ["auto", "rag"] {
        let template = text.chat_template(wanted).expect(wanted);
        assert_eq!(
            template.text(&chat(false), false).expect(wanted),
            "user: q</s>assistant: a</s>"
        );
    }
    // The settings' own list, and the older file.
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let home = folder(&[]);
        fs::write(
            home.path().join(name),
            format!("\u{feff}{}", json!({"chat_template": PLAIN})),
        )
        .expect("a file");
        assert!(
            ModelText::open(home.path())
                .expect("a model")
                .chat_template("auto")
                .is_ok(),
            "{name}"
        );
    }
}
