//! Models and adapters in the forms of other programs, loaded by those programs.

use std::fs;
use std::path::Path;
use std::process::Output;

use qlora_tests::launch;
use serde_json::json;

use crate::foreign::{passes, python};
use crate::runs::place::{Place, execute};

pub fn worker(args: &[&str]) -> Output {
    launch("qlora-worker")
        .args(args)
        .output()
        .expect("qlora-worker runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A tiny model with Llama 3.1's scaled rotary frequencies, and an adapter of it on every linear
/// layer.
fn trained(set: &[&str]) -> Place {
    let place = Place::new();
    let path = place.model.join("config.json");
    let config = fs::read_to_string(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    fs::write(path, config.to_string()).expect("a configuration");
    let common = [
        "training.learning_rate=5e-2",
        "training.schedule=constant",
        "lora.rslora=true",
    ];
    execute(
        &place.run("run", &[common.as_slice(), set].concat(), None),
        None,
    )
    .0
    .expect("a run");
    place
}

/// The model, the adapter beside it, and both merged, each by its own way into GGUF.
#[test]
fn llama_cpp_says_what_we_say() {
    let place = trained(&[]);
    let (model, adapter) = (text(&place.model), place.path("run/adapter"));
    let file = |name: &str| {
        place
            .path(name)
            .into_os_string()
            .into_string()
            .expect("a path in UTF-8")
    };
    let [base, alone, merged, again] =
        ["base", "adapter", "merged", "again"].map(|name| file(&format!("{name}.gguf")));
    let (plain, adapted) = (file("plain.safetensors"), file("adapted.safetensors"));
    let adapter = text(&adapter);
    for args in [
        ["convert", "--model", model, "--out", &base, "--type", "f32"].as_slice(),
        &[
            "convert",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            &alone,
        ],
        &[
            "merge",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            &merged,
            "--type",
            "f32",
        ],
        // From a GGUF base, whose rows are in llama.cpp's order already.
        &[
            "merge",
            "--model",
            &base,
            "--adapter",
            adapter,
            "--out",
            &again,
            "--type",
            "f32",
        ],
        &["logits", "--model", model, "--out", &plain],
        &[
            "logits",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            &adapted,
        ],
    ] {
        let output = worker(args);
        passes(&output);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("other constants"), "{said}");
    }
    let tokenizer = text(&place.model.join("tokenizer.json")).to_owned();
    for args in [
        [&plain, &base].as_slice(),
        &[&tokenizer, &base],
        &[&adapted, &base, &alone],
        &[&adapted, &merged],
        &[&adapted, &again],
    ] {
        let args: Vec<&str> = args.iter().map(|arg| arg.as_str()).collect();
        println!(
            "parity: llama.cpp, {}",
            passes(&python("llama_cpp_agrees.py", &args)).trim()
        );
    }
    // The comparison can fail: the adapter changes what is said.
    assert!(
        !python("llama_cpp_agrees.py", &[&adapted, &base])
            .status
            .success()
    );
}

#[test]
fn what_gguf_has_no_form_for_is_refused_before_anything_is_written() {
    let place = trained(&[
        "lora.dora=true",
        "training.max_steps=1",
        "training.warmup_steps=0",
    ]);
    let (out, adapter) = (place.path("adapter.gguf"), place.path("run/adapter"));
    let refused = |args: &[&str], wanted: &str| {
        let output = worker(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    };
    let (model, adapter, file) = (text(&place.model), text(&adapter), text(&out));
    refused(
        &[
            "convert",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            file,
        ],
        "merge it into the model",
    );
    refused(
        &[
            "convert",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            "folder",
        ],
        "is written as a .gguf file",
    );
    refused(
        &[
            "convert", "--model", model, "--out", "folder", "--type", "q8_0",
        ],
        "folder will be a folder",
    );
    refused(
        &[
            "convert",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            file,
            "--type",
            "f16",
        ],
        "leave --type out",
    );
    refused(
        &[
            "merge",
            "--model",
            model,
            "--adapter",
            adapter,
            "--out",
            adapter,
        ],
        "exists already",
    );
    passes(&worker(&[
        "merge",
        "--model",
        model,
        "--adapter",
        adapter,
        "--out",
        file,
        "--type",
        "q8_0",
    ]));
    fs::remove_file(&out).expect("a file");
    let pre = place.model.join("tokenizer.json");
    let tokenizer = fs::read_to_string(&pre)
        .expect("a tokenizer")
        .replace("{1,3}", "{1,4}");
    fs::write(&pre, tokenizer).expect("a tokenizer");
    refused(
        &["convert", "--model", model, "--out", file],
        "cuts text in a way that llama.cpp has no name for",
    );
    assert!(!out.exists());
}
