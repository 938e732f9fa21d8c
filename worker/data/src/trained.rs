//! Keys by which other programs say what is trained on. One that nothing here carries out must not pass as a note.

use serde_json::{Value, json};

/// Names without underscores and hyphens, in small letters.
const NAMES: [&str; 40] = [
    "weight",
    "weights",
    "lossweight",
    "lossweights",
    "sampleweight",
    "exampleweight",
    "messageweight",
    "tokenweights",
    "train",
    "trainon",
    "trainonturn",
    "trainoninput",
    "trainoninputs",
    "trainonprompt",
    "traindetail",
    "trainingdetail",
    "trainable",
    "training",
    "trainmask",
    "learn",
    "learnable",
    "supervise",
    "supervised",
    "ignore",
    "ignored",
    "skip",
    "exclude",
    "excluded",
    "loss",
    "losson",
    "lossmask",
    "computeloss",
    "skiploss",
    "mask",
    "masked",
    "maskprompt",
    "maskinputs",
    "maskhistory",
    "labelmask",
    "completionmask",
];

/// Whether `key` is one of these, however its words are joined.
pub(crate) fn says_what_is_trained(key: &str) -> bool {
    NAMES.contains(&plain(key).as_str())
}

/// Whether `value` of such a key asks for what is done anyway: to train on all of the row, once.
pub(crate) fn asks_for_nothing(key: &str, value: &Value) -> bool {
    let key = plain(key);
    let nothing = [json!(null), json!(""), json!([]), json!({})].contains(value);
    let once = key.ends_with("weight") && value.as_f64() == Some(1.0);
    let trained = ["train", "trainable", "training", "learn", "learnable", "supervised", "computeloss"];
    let kept = ["ignore", "ignored", "skip", "exclude", "excluded", "skiploss"];
    let default = match value {
        Value::Bool(true) => trained.contains(&key.as_str()),
        Value::Bool(false) => kept.contains(&key.as_str()),
        _ => false,
    };
    nothing || once || default
}

fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_however_they_are_written() {
        for key in ["weight", "loss_weight", "lossWeight", "loss-mask", "train_on", "TRAIN", "train_on_inputs", "mask"]
        {
            assert!(says_what_is_trained(key), "{key}");
        }
        for key in ["id", "source", "trained_model", "height", "name", "masking_tape"] {
            assert!(!says_what_is_trained(key), "{key}");
        }
    }

    #[test]
    fn only_what_is_done_anyway_asks_for_nothing() {
        for (key, value) in
            [("weight", json!(1.0)), ("loss_weight", json!(1)), ("train", json!(true)), ("ignore", json!(false))]
        {
            assert!(asks_for_nothing(key, &value), "{key}: {value}");
        }
        for (key, value) in [
            ("weight", json!(0)),
            ("train", json!(false)),
            ("ignore", json!(true)),
            ("mask", json!(false)),
            ("mask", json!([1])),
        ] {
            assert!(!asks_for_nothing(key, &value), "{key}: {value}");
        }
    }
}
