//! A fault of a model's files has one code, whichever command sees it, and is seen before work
//! starts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use qlora_tests::{World, launch};

use crate::first_hour_model::refused;
use crate::formats::worker;
use crate::refusals::copy_of_tiny;

fn base(path: &Path) -> String {
    format!("model.base={}", path.display())
}

/// What `qlora-worker` says where it fails with `args`.
fn worker_says(args: &[&str]) -> String {
    let output = worker(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_quantization_that_the_files_cannot_give_is_refused_before_anything_is_sent() {
    let world = World::new(&[]);
    let tiny = world.path("tiny");
    let nf4 = world.path("nf4");
    let (from, to) = (tiny.display().to_string(), nf4.display().to_string());
    let made = worker(&["convert", "--model", &from, "--out", &to]);
    assert!(made.status.success());
    for (base, asked) in [
        (base(&tiny), "gguf"),
        (base(&nf4), "gguf"),
        (base(&nf4), "none"),
        ("model.base=llama-3.1-8b-instruct".into(), "gguf"),
        ("model.base=owner/name".into(), "gguf"),
    ] {
        let wanted = format!("`model.quantization` is {asked}");
        let set = [base, format!("model.quantization={asked}")];
        refused(&world, &set, &["[Q0103]", &wanted]);
    }
}

/// `tiny` with tables of 100 rows, fewer than its tokenizer has tokens.
fn with_few_rows(world: &World) -> PathBuf {
    let folder = copy_of_tiny(world, "few");
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["vocab_size"] = 100.into();
    fs::write(path, config.to_string()).expect("a configuration");
    let path = folder.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).expect("weights");
    let cut = |(name, tensor): (String, Tensor)| {
        let is_table = name.contains("embed_tokens") || name.contains("lm_head");
        let cut = tensor
            .narrow(0, 0, if is_table { 100 } else { tensor.dims()[0] })
            .and_then(|t| t.contiguous());
        (name, cut.expect("a tensor"))
    };
    let tensors: HashMap<_, _> = tensors.into_iter().map(cut).collect();
    candle_core::safetensors::save(&tensors, path).expect("weights");
    folder
}

#[test]
fn a_tokenizer_of_another_model_is_a_fault_of_the_model() {
    let world = World::new(&[]);
    let folder = with_few_rows(&world);
    let (model, rows) = (
        folder.display().to_string(),
        world.path("eval.jsonl").display().to_string(),
    );
    let said = worker_says(&["score", "--model", &model, "--data", &rows]);
    assert!(
        said.contains("error[Q0511]") && said.contains("vocabulary of 100"),
        "{said}"
    );
    let config = world.config("training: {max_steps: 2}");
    let answer = world.ctl(&["submit", &config.to_string_lossy(), "--set", &base(&folder)]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    for word in ["error[Q0511]", "vocabulary of 100", "tokenizer.json"] {
        assert!(answer.stderr.contains(word), "{word}: {}", answer.stderr);
    }
}

#[test]
fn a_missing_tokenizer_has_one_code() {
    let world = World::new(&[]);
    let folder = copy_of_tiny(&world, "without");
    fs::remove_file(folder.join("tokenizer.json")).expect("one file less");
    let (model, rows) = (
        folder.display().to_string(),
        world.path("eval.jsonl").display().to_string(),
    );
    for said in [
        worker_says(&["score", "--model", &model, "--data", &rows]),
        world
            .ctl(&["data", "check", &rows, "--model", &model])
            .stderr,
        world
            .ctl(&["data", "preview", &rows, "--model", &model])
            .stderr,
    ] {
        assert!(
            said.contains("error[Q0511]") && said.contains("tokenizer.json is missing"),
            "{said}"
        );
    }
}

#[test]
fn a_misspelled_folder_is_told_from_a_name_of_the_hub() {
    let world = World::new(&[]);
    let mut command = launch("qlora-worker");
    fs::create_dir_all(world.path("models")).expect("a folder");
    let output = command
        .args(["score", "--model", "models/tnyi", "--data", "eval.jsonl"])
        .current_dir(world.folder.path())
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env("QLORA_MODEL_DIR", world.path("cache"))
        .output()
        .expect("qlora-worker");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("error[Q0302]") && said.contains("the folder models is here and has no tnyi"),
        "{said}"
    );
    let config = world.config("training: {max_steps: 2}");
    let text = fs::read_to_string(&config).expect("a configuration");
    let tiny = world.path("tiny").display().to_string();
    fs::write(&config, text.replace(&tiny, "models/tnyi")).expect("a configuration");
    let told = world.ctl(&["config", "check", &config.to_string_lossy()]);
    assert!(told.stderr.contains("has no tnyi"), "{}", told.stderr);
}
