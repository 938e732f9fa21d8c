//! Files of a folder that are none, or no text, are named and not waited for.

use std::fs;
use std::process::Command;

use qlora_data::ModelText;
use serde_json::json;

use super::{PLAIN, folder};

const FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/rag.jinja",
];

/// A folder in which `name` is free.
fn without(name: &str) -> tempfile::TempDir {
    let home = folder(&[("additional_chat_templates/other.jinja", json!(PLAIN))]);
    if name == "chat_template.json" {
        // It is read where there are no other templates.
        fs::remove_dir_all(home.path().join("additional_chat_templates")).expect("removed");
    }
    let path = home.path().join(name);
    if path.exists() {
        fs::remove_file(path).expect("removed");
    }
    home
}

#[test]
fn pipes_and_links_to_nothing_are_named_and_not_opened() {
    for name in FILES {
        let home = without(name);
        let path = home.path().join(name);
        let told = |words: &str| {
            let fault = ModelText::open(home.path()).expect_err(name).to_string();
            assert!(fault.contains(name) && fault.contains(words), "{fault}");
        };
        std::os::unix::fs::symlink("../gone", &path).expect("a link");
        told("a link to ../gone, which is not there");
        fs::remove_file(&path).expect("removed");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        told("a pipe, not a file");
    }
}

#[test]
fn texts_in_other_encodings_are_named_with_the_way_out() {
    for name in FILES {
        let home = without(name);
        let wide: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(home.path().join(name), wide).expect("a file");
        let fault = ModelText::open(home.path()).expect_err(name).to_string();
        for words in [name, "UTF-16", "save it as UTF-8"] {
            assert!(fault.contains(words), "{fault}");
        }
    }
}

#[test]
fn a_tokenizer_that_is_no_json_is_refused_with_its_place() {
    let home = without("tokenizer.json");
    let bytes = include_bytes!("../fuzz/seeds/tokenizers/not_json.json");
    fs::write(home.path().join("tokenizer.json"), bytes).expect("a file");
    let fault = ModelText::open(home.path())
        .expect_err("a fault")
        .to_string();
    for words in ["tokenizer.json", "it is no tokenizer", "line 11 column"] {
        assert!(fault.contains(words), "{fault}");
    }
}
