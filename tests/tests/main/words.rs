//! Words of the source and the documents: American spelling, as candle, PyTorch and Hugging Face
//! have it.

use std::fs;

use qlora_tests::repository::{files, root};

/// Beginnings of words, each up to where the two spellings part and a little on.
const BRITISH: &[&str] = &[
    "quanti\x73",
    "initiali\x73",
    "normali\x73",
    "optimi\x73",
    "vectori\x73",
    "recogni\x73",
    "synchroni\x73",
    "organi\x73",
    "licen\x63e",
    "colou\x72",
    "neighbou\x72",
    "behaviou\x72",
    "learn\x74 ",
    "misspel\x74",
];

/// What people wrote elsewhere: recordings, templates and conversations.
const FOREIGN: &[&str] = &[
    "tests/golden/",
    "configs/quickstart/",
    "Cargo.lock",
    "tests/gpu/results.py",
];

#[test]
fn words_are_spelled_the_american_way() {
    let mut found = Vec::new();
    let own = |file: &String| !FOREIGN.iter().any(|part| file.starts_with(part));
    for file in files().into_iter().filter(own) {
        // What is no text has no words.
        let Ok(text) = fs::read_to_string(root().join(&file)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            let words = BRITISH.iter().filter(|word| line.contains(**word));
            found.extend(words.map(|word| format!("{file}:{}: {word}", number + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
