//! The text of a configuration file.

use qlora_config::{Layers, Place, rewritten};
use qlora_fuzz::Target;

use crate::{WORDS, are_told, is_recorded};

const NAME: &str = "f.yaml";

#[test]
fn fuzz_yaml() {
    Target::new("yaml")
        .files("configs/invalid", ".yaml")
        .files("configs/presets", ".yaml")
        .file("configs/quickstart.yaml")
        .file("configs/training_config_m4.yaml")
        .words(&WORDS)
        .run(|bytes| check(&String::from_utf8_lossy(bytes)));
}

fn check(text: &str) {
    let layers = Layers {
        file: Some((NAME.into(), text.into())),
        ..Layers::default()
    };
    match layers.resolve() {
        Ok(resolved) => is_recorded(&resolved),
        Err(errors) => {
            let places = are_told(&errors)
                .iter()
                .filter_map(|fault| fault.place.as_ref());
            places.for_each(|place| is_in(text, place));
        }
    }
    layers
        .place_of("training.max_steps")
        .iter()
        .for_each(|place| is_in(text, place));
    if let Some(other) = rewritten(text, "model.base", "another") {
        assert!(other.contains("\"another\""), "{other}");
    }
}

/// A place of the file is one that an editor can go to.
fn is_in(text: &str, place: &Place) {
    let Place::Text(at) = place else {
        panic!("only the file was given, and {place} is named");
    };
    assert_eq!(at.source, NAME);
    // Other marks than LF end a line of YAML too, and a fault may stand behind the last one.
    let lines = text
        .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
        .count() as u64;
    assert!((1..=lines + 1).contains(&at.line), "{at} of {lines} lines");
    assert!(at.column >= 1, "{at}");
}
