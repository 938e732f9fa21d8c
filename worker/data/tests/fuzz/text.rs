//! The text side of a model's folder: `tokenizer.json` and `tokenizer_config.json`.

use qlora_data::ModelText;
use qlora_fuzz::Target;

use crate::Place;

#[test]
fn fuzz_tokenizer() {
    let place = Place::new();
    Target::new("tokenizer")
        .files("worker/data/tests/fuzz/seeds/tokenizers", ".json")
        .words(&[
            "\"BPE\"",
            "\"WordPiece\"",
            "\"Unigram\"",
            "\"WordLevel\"",
            "\"ByteLevel\"",
            "\"Metaspace\"",
            "\"Sequence\"",
            "\"Split\"",
            "\"Regex\"",
            "\"(?=\"",
            "\"TemplateProcessing\"",
            "\"unk_token\"",
            "\"byte_fallback\"",
        ])
        .run(|bytes| {
            place.put("tokenizer.json", bytes);
            check(&place);
        });
}

#[test]
fn fuzz_text_settings() {
    let place = Place::new();
    place.put(
        "tokenizer.json",
        include_bytes!("seeds/tokenizers/byte_level.json"),
    );
    Target::new("text_settings")
        .seed("{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", \"additional_special_tokens\": [\"</s>\"], \
               \"chat_template\": [{\"name\": \"default\", \"template\": \"{{ messages }}\"}, {\"name\": \"tool_use\", \"template\": \"{{ tools }}\"}]}")
        .file("tests/golden/chat/tokenizer/tokenizer_config.json")
        .words(&["\"chat_template\"", "\"name\"", "\"template\"", "\"</s>\"", "\"content\""])
        .run(|bytes| {
            place.put("tokenizer_config.json", bytes);
            check(&place);
        });
}

/// A tokenizer that is taken encodes and decodes, or refuses in words.
fn check(place: &Place) {
    let text = match ModelText::open(place.path()) {
        Ok(text) => text,
        Err(e) => {
            assert!(e.path.starts_with(place.path()), "{e}");
            return;
        }
    };
    // It compiles, or it is refused.
    drop(text.chat_template("auto"));
    let Some(tokenizer) = text.tokenizer else {
        return;
    };
    for written in ["", "ab <s>c</s>", "\u{e9}\u{1f600}\0"] {
        if let Ok(encoded) = tokenizer.encode(written, true) {
            // Whatever it says, it has to say it.
            drop(tokenizer.decode(encoded.get_ids(), false));
        }
    }
}
