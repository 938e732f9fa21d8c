//! A golden model of a family with a tokenizer, and what becomes of it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use qlora_trainer::bench;
use qlora_trainer::export::{self, Base, ElementType};
use serde_json::Value;

use crate::toy::{self, Tensors, VOCABULARY, golden, held_as};

/// Values of the factors of the adapters are small after eight steps.
const STRENGTH: f64 = 10.0;

fn family_config(family: &str, changes: Value) -> Value {
    let text = fs::read_to_string(golden(&format!("families/{family}/config.json")));
    let mut config: Value = serde_json::from_str(&text.expect("a configuration")).expect("JSON");
    config["vocab_size"] = VOCABULARY.into();
    for (key, value) in changes.as_object().expect("changes") {
        config[key] = value.clone();
    }
    config
}

/// The golden weights of `family`, whose tables get a row for each token.
pub fn family_tensors(family: &str) -> Tensors {
    let path = golden(&format!("families/{family}/model.safetensors"));
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).expect("weights");
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let Some(table) = tensors.get(name) else {
            continue;
        };
        let longer = Tensor::cat(&[table, table, table, table], 0)
            .and_then(|t| t.narrow(0, 0, VOCABULARY)?.contiguous());
        tensors.insert(name.into(), longer.expect("a table"));
    }
    tensors
}

pub struct Home {
    folder: tempfile::TempDir,
    pub base: PathBuf,
    family: &'static str,
}

impl Home {
    pub fn new(family: &'static str, changes: Value) -> Self {
        Self::of(family, changes, &family_tensors(family))
    }

    pub fn of(family: &'static str, changes: Value, tensors: &Tensors) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = family_config(family, changes);
        let base = toy::model(&folder.path().join("base"), &config, tensors);
        Self {
            folder,
            base,
            family,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn try_convert(&self) -> Result<Vec<String>, String> {
        let (out, held) = (self.path("base.gguf"), held_as("nf4"));
        let written = export::convert(
            &self.base,
            &out,
            &held,
            ElementType::F32,
            &mut |_, _| Ok(()),
        );
        assert_eq!(written.is_ok(), out.exists());
        written.map(|w| w.notes).map_err(|e| e.to_string())
    }

    pub fn convert(&self) -> PathBuf {
        self.try_convert().expect("a GGUF file");
        self.path("base.gguf")
    }

    /// PEFT's adapter of the recorded run, made stronger.
    pub fn adapter(&self) -> PathBuf {
        let from = golden(&format!("families/{}/run/final_adapter", self.family));
        let to = self.path("adapter");
        fs::create_dir_all(&to).expect("a folder");
        let name = "adapter_config.json";
        fs::copy(from.join(name), to.join(name)).expect("settings");
        let name = "adapter_model.safetensors";
        let factors = candle_core::safetensors::load(from.join(name), &Device::Cpu);
        let stronger = |(name, t): (String, Tensor)| {
            let by = if name.contains("lora_B") {
                STRENGTH
            } else {
                1.0
            };
            (name, (t * by).expect("a tensor"))
        };
        let factors = factors.expect("factors").into_iter().map(stronger);
        toy::save(&factors.collect(), &to.join(name));
        to
    }

    pub fn merge(&self, model: &Path, adapter: &Path, name: &str) -> PathBuf {
        let (out, held) = (self.path(name), held_as("nf4"));
        export::merge(
            model,
            adapter,
            &out,
            Base::Original,
            &held,
            ElementType::F32,
            &mut |_, _| Ok(()),
        )
        .expect("a merged model");
        out
    }

    pub fn convert_adapter(&self, adapter: &Path) -> Result<PathBuf, String> {
        let out = self.path("adapter.gguf");
        export::convert_adapter(&self.base, adapter, &out, &mut |_, _| Ok(()))
            .map_err(|e| e.to_string())?;
        Ok(out)
    }

    /// llama.cpp gives the logits of our `model`, a folder, and `adapter` from `files`.
    pub fn llama_cpp_agrees(&self, tolerance: f32, adapter: Option<&Path>, files: &[&Path]) {
        let found = bench::logits(&self.base, &held_as("none"), adapter).expect("logits");
        let path = self.path("logits.safetensors");
        let tensors = HashMap::from([
            ("ids".to_owned(), found.ids),
            ("logits".to_owned(), found.logits),
        ]);
        toy::save(&tensors, &path);
        let python = std::env::var("QLORA_TEST_PYTHON")
            .expect("QLORA_TEST_PYTHON is not set: run tests/run");
        let script = golden("../python/llama_cpp_agrees.py");
        let output = Command::new(python)
            .arg(script)
            .arg(format!("--tolerance={tolerance}"))
            .arg(path)
            .args(files)
            .output();
        let output = output.expect("python runs");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("parity: llama.cpp, {}, {}", self.family, said.trim());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{files:?}: {said}\n{errors}");
    }
}
