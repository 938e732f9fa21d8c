//! Variables and flags that are laid over a file: what they mean, and what is said of them.

use qlora_config::{Layers, Place, quantized_twice};

const FILE: &str = "model: {base: x}\ndata: {train: t.jsonl, eval: e.jsonl}\n";

fn layers(set: &[&str]) -> Layers {
    let set = set.iter().map(|pair| (*pair).to_owned()).collect();
    Layers {
        file: Some(("f.yaml".into(), FILE.into())),
        env: Vec::new(),
        set,
    }
}

#[test]
fn text_stays_as_it_was_written_whatever_it_looks_like() {
    for written in [
        "007",
        "2024",
        "1.50",
        "true",
        "no",
        "1e3",
        "[x]",
        "2026-01-01",
        "{a: b}",
        "a: b",
    ] {
        let set: Vec<String> = [
            "name",
            "model.base",
            "data.train",
            "data.eval",
            "resources.labels.site",
        ]
        .map(|key| format!("{key}={written}"))
        .into();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let resolved = layers(&set)
            .resolve()
            .unwrap_or_else(|e| panic!("{written}: {e}"));
        let config = resolved.config();
        assert_eq!(config.name.as_deref(), Some(written));
        assert_eq!(config.model.base.as_deref(), Some(written));
        assert_eq!(config.data.train.as_deref(), Some(written));
        assert_eq!(config.data.eval.as_deref(), Some(written));
        assert_eq!(config.resources.labels["site"], written);
    }
    let resolved = layers(&["data.eval=null", "name=\"quoted\"", "lora.r=8"])
        .resolve()
        .expect("valid");
    let config = resolved.config();
    assert_eq!(
        (
            config.data.eval.as_deref(),
            config.name.as_deref(),
            config.lora.r
        ),
        (None, Some("quoted"), 8)
    );
    let mut from_env = layers(&[]);
    from_env.env = vec![
        ("QLORA__MODEL__BASE".into(), "007".into()),
        ("QLORA__LORA__R".into(), "8".into()),
    ];
    let resolved = from_env.resolve().expect("valid");
    assert_eq!(
        (
            resolved.config().model.base.as_deref(),
            resolved.config().lora.r
        ),
        (Some("007"), 8)
    );
}

#[test]
fn every_fault_of_every_layer_is_named() {
    let mut layers = layers(&[
        "lora.rnk=2",
        "training.max_steps=many",
        "resources.device=gpu",
        "trainin.seed=1",
    ]);
    layers.env = vec![("QLORA__DATA__TRIAN".into(), "x".into())];
    let error = layers.resolve().expect_err("five faults").to_string();
    for part in [
        "unknown key `lora.rnk`  (--set lora.rnk)",
        "`training.max_steps` must be a whole number, not text  (--set training.max_steps)",
        "`resources.device` cannot be `gpu`  (--set resources.device)",
        "unknown key `trainin`  (--set trainin.seed)",
        "unknown key `data.trian`  (QLORA__DATA__TRIAN)",
    ] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert_eq!(error.matches("error[").count(), 5, "{error}");
}

#[test]
fn a_value_knows_whether_the_file_or_a_flag_wrote_it() {
    let mut layers = layers(&["data.train=mine.jsonl"]);
    let place = |layers: &Layers, key: &str| layers.place_of(key).map(|place| place.to_string());
    assert_eq!(
        place(&layers, "data.train").as_deref(),
        Some("--set data.train")
    );
    assert_eq!(place(&layers, "data.eval").as_deref(), Some("f.yaml:2:24"));
    assert!(matches!(layers.place_of("data.eval"), Some(Place::Text(_))));
    assert_eq!(place(&layers, "lora.r"), None);
    layers.env = vec![("QLORA__DATA__EVAL".into(), "e".into())];
    assert_eq!(
        place(&layers, "data.eval").as_deref(),
        Some("QLORA__DATA__EVAL")
    );
    layers.set = vec!["data={eval: other.jsonl}".into()];
    assert_eq!(place(&layers, "data.eval").as_deref(), Some("--set data"));
}

#[test]
fn a_setting_without_a_key_or_a_value_is_refused_and_no_preset_is_none() {
    for (pair, fault) in [
        ("lora.r", "has no value"),
        ("=8", "has no key"),
        (" = 8", "has no key"),
    ] {
        let error = layers(&[pair]).resolve().expect_err(pair).to_string();
        assert!(error.contains("Q0104") && error.contains(fault), "{error}");
    }
    let plain = layers(&[]).resolve().expect("valid");
    for none in ["extends=null", "extends=~"] {
        assert_eq!(layers(&[none]).resolve().expect(none).json(), plain.json());
    }
    for wrong in ["extends=3", "extends=[h100]", "extends=h200"] {
        let error = layers(&[wrong]).resolve().expect_err(wrong).to_string();
        assert!(
            error.contains("Q0105") && error.contains("h100, m4, cpu"),
            "{error}"
        );
    }
}

#[test]
fn extends_takes_one_name() {
    let fault = |extends: &str| {
        let text = format!("extends: {extends}\n{FILE}");
        let layers = Layers {
            file: Some(("f.yaml".into(), text)),
            ..Layers::default()
        };
        layers.resolve().expect_err(extends).to_string()
    };
    for (extends, wanted) in [
        (
            "[cpu, h100]",
            "`extends` takes one name, not a list  (f.yaml:1:",
        ),
        (
            "{cpu: 1}",
            "`extends` takes the name of a preset  (f.yaml:1:",
        ),
        ("a100", "no preset is called `a100`  (f.yaml:1:"),
    ] {
        let said = fault(extends);
        assert!(
            said.contains(wanted) && said.contains("takes one of"),
            "{said}"
        );
    }
    let said = layers(&["extends=a100"])
        .resolve()
        .expect_err("no preset")
        .to_string();
    assert!(
        said.contains("no preset is called `a100`  (--set extends)"),
        "{said}"
    );
}

#[test]
fn a_gguf_file_is_not_quantized_a_second_time_however_its_name_is_written() {
    for name in ["m.gguf", "M.GGUF"] {
        let set = [
            format!("model.base={name}"),
            "model.quantization=nf4".into(),
        ];
        let said = layers(&set.each_ref().map(String::as_str))
            .resolve()
            .expect_err(name)
            .to_string();
        let same = quantized_twice(|key| Some(Place::Named(format!("--set {key}")))).to_string();
        assert_eq!(said, same);
    }
}

#[test]
fn a_key_of_endless_parts_is_refused_however_it_is_given() {
    let key = vec!["a"; 50_000].join(".");
    let flag = Layers {
        set: vec![format!("{key}=1")],
        ..Layers::default()
    };
    let variable = Layers {
        env: vec![(format!("QLORA__{}", key.replace('.', "__")), "1".into())],
        ..Layers::default()
    };
    for layers in [flag, variable] {
        let fault = layers.resolve().expect_err("a refusal").to_string();
        assert!(fault.contains("has 50000 parts"), "{fault}");
        assert!(fault.len() < 300, "{fault}");
    }
}
