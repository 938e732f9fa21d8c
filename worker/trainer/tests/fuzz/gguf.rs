//! GGUF files: header, tokenizer and tensors.

use qlora_fuzz::Target;
use qlora_trainer::weights::Checkpoint;

use crate::{is_told, tiny};

#[test]
fn fuzz_gguf() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("m.gguf");
    let seed = tiny::gguf();
    std::fs::write(&path, &seed).expect("a file");
    let opened = Checkpoint::open(&path).expect("the seed is a model");
    assert!(opened.files.tokenizer.is_some() && opened.files.template.is_some());
    let held = tiny::held_as("gguf");
    Target::new("gguf")
        .seed(seed)
        .words(&[
            "gpt2",
            "llama",
            "qwen2",
            "gemma3",
            "llama.rope.scaling.type",
            "yarn",
            "general.alignment",
        ])
        .run(|bytes| {
            std::fs::write(&path, bytes).expect("a file");
            match Checkpoint::open(&path) {
                Ok(checkpoint) => {
                    let tokenizer = checkpoint.files.tokenizer().expect("a GGUF file has one");
                    drop(tokenizer.encode("AB <s>\u{e9}", true));
                    tiny::compute(&path, &held);
                }
                Err(e) => is_told(&e),
            }
        });
}
