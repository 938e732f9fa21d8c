//! Folders of models: which template is taken, where special tokens stand, and which texts teach
//! what they seem to.

mod chosen;
mod ends;
mod files;
mod tokens;

use std::fs;
use std::path::Path;

use qlora_data::{Conversation, Encoder, Example, IGNORE, ModelText};
use serde_json::{Value, json};

const PLAIN: &str = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
const TOOLS: &str = "TOOLS {{ tools | length }} {% for m in messages %}{{ m.content or (m.tool_calls | tojson) }}{% endfor %}";

/// A tokenizer of bytes with `<s>`, `</s>` and `<|end|>`, written into `folder`.
fn tokenizer(folder: &Path, adds_bos: bool) {
    let plain = |b: &u8| (33..127).contains(b) || (161..173).contains(b) || *b >= 174;
    let mut extra = 256u32..;
    let mut name = |b: u8| {
        if plain(&b) {
            char::from(b)
        } else {
            extra.next().and_then(char::from_u32).expect("a character")
        }
    };
    let special = ["<s>", "</s>", "<|end|>"];
    let names = special
        .iter()
        .map(|t| (*t).to_owned())
        .chain((0..=255).map(|b| name(b).to_string()));
    let vocabulary: Value = names
        .enumerate()
        .map(|(id, name)| (name, json!(id)))
        .collect();
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
        let text = content
            .as_str()
            .filter(|_| name.ends_with("jinja"))
            .map_or_else(|| content.to_string(), str::to_owned);
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

fn trained_on(text: &ModelText, example: &Example) -> Vec<String> {
    let (tokenizer, template) = (
        text.tokenizer.as_ref().expect("a tokenizer"),
        text.chat_template("auto").expect("a template"),
    );
    let encoder = Encoder::new(tokenizer, &template);
    let encoded = encoder
        .encode(tokenizer, &template, example)
        .expect("tokens");
    let labels: Vec<(bool, u32)> = encoded
        .sample
        .labels
        .iter()
        .map(|l| *l != IGNORE)
        .zip(encoded.sample.ids)
        .collect();
    let runs = labels.chunk_by(|a, b| a.0 == b.0).filter(|run| run[0].0);
    let mut parts: Vec<String> = runs
        .map(|run| {
            tokenizer
                .decode(&run.iter().map(|(_, id)| *id).collect::<Vec<_>>(), false)
                .expect("text")
        })
        .collect();
    parts.push(if encoded.ends {
        "ends".into()
    } else {
        "endless".into()
    });
    parts
}

/// The tokenizer of `folder`, changed.
fn change(folder: &Path, with: impl Fn(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    with(&mut value);
    fs::write(path, value.to_string()).expect("a file");
}
