//! The folder of an adapter: its settings, and its tensors.

use std::fs;
use std::path::Path;

use candle_core::Device;
use qlora_fuzz::Target;
use qlora_planner::ModelShape;
use qlora_testkit::{golden, golden_json};
use qlora_trainer::adapter::{self, BaseModel};
use qlora_trainer::model::shape_from_json;

use crate::is_told;

const ADAPTER: &str = "qlora_run/attn_r8/final_adapter";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

#[test]
fn fuzz_adapter_config() {
    Target::new("adapter_config")
        .file(&format!("tests/golden/{ADAPTER}/{CONFIG}"))
        .file(&format!(
            "tests/golden/qlora_run/dora_r8/final_adapter/{CONFIG}"
        ))
        .words(&[
            "\"all-linear\"",
            "\"q_proj\"",
            "\"(.*)+_proj$\"",
            "\"model.layers.0.self_attn.q_proj\"",
            "\"rank_pattern\"",
            "\"LOHA\"",
            "{\"q_proj\": 4}",
            "{\".*\": 3}",
            "[0]",
            "\"layers\"",
            "\"lora_only\"",
        ])
        .run(|bytes| check(CONFIG, bytes));
}

#[test]
fn fuzz_adapter_weights() {
    Target::new("adapter_weights")
        .file(&format!("tests/golden/{ADAPTER}/{WEIGHTS}"))
        .words(&[
            "F16",
            "BF16",
            "F64",
            "lora_A",
            "lora_B",
            "lora_magnitude_vector",
            "__metadata__",
            "[8,64]",
        ])
        .run(|bytes| check(WEIGHTS, bytes));
}

/// The golden adapter with `bytes` in the place of its file `name`. What is loaded is written as an
/// adapter that is loaded as the same.
fn check(name: &str, bytes: &[u8]) {
    let home = tempfile::tempdir().expect("a folder");
    let (given, first, second) = (
        home.path().join("0"),
        home.path().join("1"),
        home.path().join("2"),
    );
    fs::create_dir(&given).expect("a folder");
    for own in [CONFIG, WEIGHTS] {
        fs::copy(golden(ADAPTER).join(own), given.join(own)).expect("a file");
    }
    fs::write(given.join(name), bytes).expect("a file");
    let shape = shape();
    if again(&given, &first, &shape) {
        assert!(again(&first, &second, &shape), "what was written is read");
        for own in [CONFIG, WEIGHTS] {
            let written = |folder: &Path| fs::read(folder.join(own)).expect("a file");
            assert!(written(&first) == written(&second), "{own} stays the same");
        }
    }
}

/// Whether the adapter at `from` is loaded; then it is written to `to`.
fn again(from: &Path, to: &Path, shape: &ModelShape) -> bool {
    let base = BaseModel {
        name: "tiny",
        fingerprint: "of-tiny",
        shape,
        template: None,
    };
    match adapter::load(from, shape, base.fingerprint, 1, &Device::Cpu) {
        Ok(adapters) => {
            adapter::save(&adapters, base, to).expect("an adapter is written");
            true
        }
        Err(e) => {
            is_told(&e);
            false
        }
    }
}

/// Of the model that the golden adapters are trained on.
fn shape() -> ModelShape {
    shape_from_json(&golden_json("tiny_llama/config.json")).expect("a shape")
}
