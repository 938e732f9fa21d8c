//! The recorded configuration of a job, as a client sends it.

use qlora_config::{Layers, ResolvedConfig};
use qlora_fuzz::Target;

use crate::{WORDS, are_told, is_recorded};

#[test]
fn fuzz_record() {
    let layers = Layers {
        set: vec!["model.base=x".into(), "data.train=t.jsonl".into()],
        ..Layers::default()
    };
    let resolved = layers.resolve().expect("a configuration");
    Target::new("record")
        .seed(resolved.json())
        .words(&WORDS)
        .run(
            |bytes| match ResolvedConfig::from_json(&String::from_utf8_lossy(bytes)) {
                Ok(resolved) => is_recorded(&resolved),
                Err(errors) => {
                    are_told(&errors);
                }
            },
        );
}
