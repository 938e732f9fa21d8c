//! The safetensors file of a model, and the index of several.

use qlora_fuzz::Target;
use qlora_trainer::weights::{Checkpoint, indexed_files, shape_of};

use crate::{is_told, tiny};

#[test]
fn fuzz_safetensors() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("model.safetensors");
    let config = tiny::config().to_string();
    std::fs::write(home.path().join("config.json"), config).expect("a configuration");
    let seed = tiny::safetensors(home.path());
    std::fs::write(&path, &seed).expect("a file");
    Checkpoint::open(home.path()).expect("the seed is a model");
    let held = tiny::held_as("none");
    Target::new("safetensors")
        .seed(seed)
        .file("tests/golden/nf4/f32_3x1.safetensors")
        .words(&[
            "F16",
            "BF16",
            "F8_E4M3",
            "I64",
            "BOOL",
            "__metadata__",
            "data_offsets",
            "[0,0]",
            "[4294967296,4294967296]",
        ])
        .run(|bytes| {
            std::fs::write(&path, bytes).expect("a file");
            if let Err(e) = shape_of(home.path()) {
                is_told(&e);
            }
            tiny::compute(home.path(), &held);
        });
}

#[test]
fn fuzz_index() {
    let home = tempfile::tempdir().expect("a folder");
    let config = tiny::config().to_string();
    std::fs::write(home.path().join("config.json"), config).expect("a configuration");
    let tensors = tiny::safetensors(home.path());
    std::fs::write(home.path().join("model-1.safetensors"), tensors).expect("a file");
    let path = home.path().join("model.safetensors.index.json");
    Target::new("index")
        .seed("{\"metadata\": {\"total_size\": 10}, \"weight_map\": {\"lm_head.weight\": \"model-1.safetensors\", \
               \"model.norm.weight\": \"model-1.safetensors\"}}")
        .words(&["\"../model-1.safetensors\"", "\"/dev/zero\"", "\"model-2.safetensors\"", "\"weight_map\"", "\".\""])
        .run(|bytes| {
            std::fs::write(&path, bytes).expect("a file");
            match indexed_files(&path) {
                // Whoever downloads a model asks for exactly these.
                Ok(files) => assert!(files.iter().all(|file| !file.contains('/')), "{files:?}"),
                Err(e) => is_told(&e),
            }
            if let Err(e) = Checkpoint::open(home.path()) {
                is_told(&e);
            }
        });
}
