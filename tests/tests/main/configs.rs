//! Every shipped configuration loads; every broken one fails with its message.

use std::fs;
use std::path::PathBuf;

use qlora_config::{Checkpointing, DeviceKind, FlashAttention, Layers, Quantization};
use qlora_tests::launch;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn layers(name: &str, text: String) -> Layers {
    Layers {
        file: Some((name.into(), text)),
        ..Layers::default()
    }
}

fn load(name: &str) -> Layers {
    layers(
        name,
        fs::read_to_string(folder().join(name)).expect("a shipped configuration"),
    )
}

#[test]
fn every_shipped_configuration_is_valid() {
    let h100 = load("training_config_h100.yaml")
        .resolve()
        .expect("the H100 configuration");
    let m4 = load("training_config_m4.yaml")
        .resolve()
        .expect("the M4 configuration");
    load("quickstart.yaml")
        .resolve()
        .expect("the quickstart configuration");
    for config in [h100.config(), m4.config()] {
        assert_eq!(config.model.base.as_deref(), Some("llama-3.1-8b-instruct"));
        assert_eq!(
            (config.lora.r, config.lora.alpha, config.lora.dropout),
            (16, 32.0, 0.05)
        );
        assert_eq!(config.lora.target_modules.len(), 4);
        assert_eq!(config.model.quantization, Quantization::Nf4);
        assert!(
            config.model.double_quant
                && config.training.gradient_checkpointing != Checkpointing::Off
        );
    }
    assert_eq!(
        h100.config().training.flash_attention,
        FlashAttention::Required
    );
    assert_eq!(m4.config().resources.device, DeviceKind::Metal);
    assert!(m4.config().training.micro_batch_size < h100.config().training.micro_batch_size);
    assert!(m4.config().data.max_seq_len < h100.config().data.max_seq_len);
    assert_ne!(h100.hash(), m4.hash());
}

/// The other model that a shipped configuration names fits the same device, with nothing else
/// changed.
#[test]
fn another_model_is_one_key_away() {
    for (name, gib) in [
        ("training_config_h100.yaml", "79"),
        ("training_config_m4.yaml", "16"),
    ] {
        let path = folder().join(name);
        let text = fs::read_to_string(&path).expect("a shipped configuration");
        let (_, rest) = text.split_once("# or: ").expect("another model");
        let other = rest.lines().next().unwrap_or_default();
        let planned = launch("qlora-ctl")
            .arg("plan")
            .arg(path)
            .args(["--memory", gib, "--set", &format!("model.base={other}")])
            .output()
            .expect("qlora-ctl");
        let said = String::from_utf8_lossy(&planned.stdout);
        assert!(
            planned.status.success() && said.starts_with(&format!("{other} on ")),
            "{name}: {said}{}",
            String::from_utf8_lossy(&planned.stderr)
        );
    }
}

#[test]
fn later_layers_override_earlier_ones() {
    let mut layers = load("training_config_m4.yaml");
    assert_eq!(layers.resolve().expect("valid").config().lora.r, 16);
    layers.env.push(("QLORA__LORA__R".into(), "32".into()));
    assert_eq!(layers.resolve().expect("valid").config().lora.r, 32);
    layers.set.push("lora.r=8".into());
    let resolved = layers.resolve().expect("valid");
    assert_eq!(resolved.config().lora.r, 8);
    // From the file, over the preset; from the preset, over the defaults; and a default.
    assert_eq!(resolved.config().data.max_seq_len, 1024);
    assert_eq!(
        resolved.config().training.flash_attention,
        FlashAttention::Off
    );
    assert_eq!(resolved.config().training.seed, 42);
}

/// The first line of each broken file is a comment with what the message must contain.
#[test]
fn every_broken_configuration_fails_with_its_message() {
    let mut seen = 0;
    for entry in fs::read_dir(folder().join("invalid")).expect("configs/invalid") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file");
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let wanted: Vec<&str> = text
            .lines()
            .next()
            .expect("a line")
            .trim_start_matches("# ")
            .split(" | ")
            .collect();
        let error = layers(&name, text.clone())
            .resolve()
            .expect_err(&name)
            .to_string();
        for part in wanted {
            assert!(error.contains(part), "{name}: `{part}` is not in:\n{error}");
        }
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} broken configurations");
}

/// Whichever check finds them.
#[test]
fn faults_are_told_in_the_order_of_the_file() {
    let text = "training:\n  max_steps: 0\n  keep_best: true\nmodel: {base: ~/x}\nlora:\n  r: 0\n\
                resources: {workers: 0}\ndata:\n  train: t.jsonl\n  template_date: now\n  max_seq_len: 1\n";
    let errors = layers("x.yaml", text.into())
        .resolve()
        .expect_err("seven faults");
    let lines: Vec<String> = errors
        .0
        .iter()
        .map(|fault| fault.place.as_ref().expect("a place").to_string())
        .map(|place| place.split(':').nth(1).expect("a line").to_owned())
        .collect();
    assert_eq!(lines, ["2", "3", "4", "6", "7", "10", "11"], "{errors}");
}

#[test]
fn a_flag_is_named_as_the_place_of_its_fault() {
    let mut layers = load("quickstart.yaml");
    layers.set.push("lora.dropout=2".into());
    let error = layers.resolve().expect_err("out of range").to_string();
    assert!(
        error.contains("--set lora.dropout") && error.contains("Q0103"),
        "{error}"
    );
    layers.set = vec!["lora.rnk=2".into()];
    let error = layers.resolve().expect_err("unknown").to_string();
    assert!(error.contains("did you mean `lora.r`?"), "{error}");
}
