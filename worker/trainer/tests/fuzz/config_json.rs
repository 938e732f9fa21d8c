//! `config.json` of a model.

use qlora_fuzz::Target;
use qlora_trainer::model::{ConfigFault, shape_from_json};
use serde_json::Value;

#[test]
fn fuzz_config_json() {
    Target::new("config_json")
        .files("tests/golden/families", "/config.json")
        .files("tests/golden/families", "/config.pre_v5.json")
        .file("tests/golden/tiny_llama/config.json")
        .file("tests/golden/qlora_run/base_bnb4bit/config.json")
        .words(&[
            "\"llama3\"",
            "\"yarn\"",
            "\"linear\"",
            "\"longrope\"",
            "\"gemma3_text\"",
            "\"phi3\"",
            "\"qwen3\"",
            "\"layer_types\"",
            "\"sliding_attention\"",
            "\"rope_scaling\"",
            "\"head_dim\"",
            "\"bitsandbytes\"",
            "4294967295",
            "2147483648",
        ])
        .run(check);
}

/// What is taken has sizes that a decoder can have.
fn check(bytes: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    match shape_from_json(&config) {
        Ok(shape) => {
            let sizes = [
                shape.hidden,
                shape.layers,
                shape.heads,
                shape.kv_heads,
                shape.head_dim,
                shape.ffn,
            ];
            assert!(sizes.iter().all(|size| *size > 0), "{shape:?}");
            assert!(shape.heads.is_multiple_of(shape.kv_heads), "{shape:?}");
            assert!(
                shape.norm_epsilon > 0.0 && shape.rope_theta > 0.0,
                "{shape:?}"
            );
            // What a memory plan starts with, for any size that a configuration can name: 64 bits
            // hold it.
            let elements = |module| {
                let (rows, cols) = shape.projection(module);
                assert!(rows > 0 && cols > 0, "{shape:?}");
                rows as u128 * cols as u128
            };
            let block: u128 = shape.modules().iter().copied().map(elements).sum();
            assert_eq!(block, shape.block_parameters() as u128, "{shape:?}");
            let all = block * shape.layers as u128;
            assert!(
                (all..all + (1 << 60)).contains(&(shape.parameters() as u128)),
                "{shape:?}"
            );
        }
        Err(ConfigFault::Broken(fault) | ConfigFault::Unsupported(fault)) => {
            assert!(!fault.trim().is_empty());
        }
    }
}
