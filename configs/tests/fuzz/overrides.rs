//! What is laid over a file: variables and flags.

use qlora_config::{Layers, Place};
use qlora_fuzz::Target;

use crate::{WORDS, are_told, is_recorded};

/// Flags of one command at the most: nobody gives more, and each is looked for in all others.
const MOST: usize = 40;

#[test]
fn fuzz_overrides() {
    Target::new("overrides")
        .seed("model.base=x\ndata.train=t.jsonl\ntraining.max_steps=3")
        .seed("lora.targets=[q_proj, v_proj]\nresources.labels.rack=a\nextends=cpu")
        .seed("training.learning_rate=1e-4\nlora.r=8\nlora={r: 8, alpha: 16}")
        .words(&WORDS)
        .run(|bytes| check(&String::from_utf8_lossy(bytes)));
}

/// Each line is given as a flag, and as the variable of the same key.
fn check(text: &str) {
    let file = Some((
        "f.yaml".into(),
        "model: {base: x}\ndata: {train: t}\n".into(),
    ));
    let variable = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (
            format!("QLORA__{}", key.to_uppercase().replace('.', "__")),
            value.to_owned(),
        )
    };
    let flags = Layers {
        file: file.clone(),
        set: text.lines().take(MOST).map(str::to_owned).collect(),
        ..Layers::default()
    };
    let variables = Layers {
        file,
        env: text.lines().take(MOST).map(variable).collect(),
        ..Layers::default()
    };
    for layers in [flags, variables] {
        match layers.resolve() {
            Ok(resolved) => is_recorded(&resolved),
            Err(errors) => {
                for fault in are_told(&errors) {
                    let named = matches!(&fault.place, Some(Place::Named(name)) if name.is_empty());
                    assert!(!named, "{fault}");
                }
            }
        }
    }
}
