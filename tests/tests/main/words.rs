//! Words of the source and the documents: American spelling, as candle, PyTorch and Hugging Face
//! have it, and the field's words in place of words of our own.

use std::{fs, iter};

use qlora_tests::repository::{files, root};

/// Parts of words and phrases in lower case that no line may contain, each with what to write. Only
/// those are listed that mean nothing else, also as parts of other words.
const REFUSED: &[(&str, &str)] = &[
    // British spelling, up to where it parts from the American one.
    ("acknowledgement", "acknowledgment"),
    ("amongst", "among"),
    ("analyse", "analyze"),
    ("artefact", "artifact"),
    ("authoris", "authoriz"),
    ("behaviour", "behavior"),
    ("categoris", "categoriz"),
    ("centre", "center"),
    ("colour", "color"),
    ("customis", "customiz"),
    ("defence", "defense"),
    ("favour", "favor"),
    ("fibre", "fiber"),
    ("finalis", "finaliz"),
    ("for ever ", "forever"),
    ("fulfil ", "fulfill"),
    ("generalis", "generaliz"),
    ("grey", "gray"),
    ("honour", "honor"),
    ("initialis", "initializ"),
    ("judgement", "judgment"),
    ("labell", "label"),
    ("learnt", "learned, or trained on"),
    ("licence", "license"),
    ("localis", "localiz"),
    ("materialis", "materializ"),
    ("maximis", "maximiz"),
    ("memoris", "memoriz"),
    ("minimis", "minimiz"),
    ("misspelt", "misspelled"),
    ("modell", "model"),
    ("neighbour", "neighbor"),
    ("normalis", "normaliz"),
    ("optimis", "optimiz"),
    ("organis", "organiz"),
    ("parallelisa", "paralleliza"),
    ("parallelise", "parallelize"),
    ("prioritis", "prioritiz"),
    ("quantis", "quantiz"),
    ("randomis", "randomiz"),
    ("realis", "realiz"),
    ("recognis", "recogniz"),
    ("regularis", "regulariz"),
    ("serialis", "serializ"),
    ("specialis", "specializ"),
    ("stabilis", "stabiliz"),
    ("standardis", "standardiz"),
    ("summaris", "summariz"),
    ("synchronis", "synchroniz"),
    ("tokenis", "tokeniz"),
    ("towards", "toward"),
    ("travell", "travel"),
    ("utilis", "utiliz"),
    ("vectoris", "vectoriz"),
    ("visualis", "visualiz"),
    ("whilst", "while"),
    // Words of our own, for which the field has another.
    ("a gang ", "a process group"),
    ("a processor", "a CPU"),
    ("arrangement", "memory policy"),
    ("begun ahead", "prefetched"),
    ("begun_ahead", "prefetched"),
    ("machine's memory", "host memory"),
    ("manners", "options"),
    ("processors ", "CPUs"),
    ("qlora gang", "process group"),
    ("share1", "one_minus_beta1"),
    ("stand over", "override"),
    ("stand_over", "override"),
    ("stands over", "overrides"),
    ("the gang", "the process group"),
    ("the processor", "the CPU"),
    ("thrift", "memory policy"),
    ("to the bit", "bit-identical"),
    ("to_the_bit", "bit-identical"),
    ("vitals", "metrics"),
    ("written ahead", "prefetched"),
    ("written_ahead", "prefetched"),
    ("written_out", "dequantized"),
];

/// What people wrote elsewhere: recordings, templates and conversations. The list above is no text
/// either.
const FOREIGN: &[&str] = &[
    "tests/golden/",
    "configs/quickstart/",
    "Cargo.lock",
    "tests/gpu/results.py",
    "tests/tests/main/words.rs",
];

/// Whether `file` tells of recordings.
fn tells_of_recordings(file: &str) -> bool {
    file.starts_with("tests/golden/") && file.ends_with(".md")
}

#[test]
fn words_are_american_and_those_of_the_field() {
    let mut found = Vec::new();
    let own = |file: &String| {
        tells_of_recordings(file) || !FOREIGN.iter().any(|part| file.starts_with(part))
    };
    for file in files().into_iter().filter(own) {
        // What is no text has no words.
        let Ok(text) = fs::read_to_string(root().join(&file)) else {
            continue;
        };
        // The name of the file stands in its place before the first line.
        for (number, line) in iter::once(file.as_str()).chain(text.lines()).enumerate() {
            let line = line.to_lowercase();
            let refused = REFUSED.iter().filter(|(word, _)| line.contains(word));
            found
                .extend(refused.map(|(word, instead)| {
                    format!("{file}:{number}: `{word}`: write `{instead}`")
                }));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
