//! Keys by which other programs say what is trained on. A key that is not supported must not pass
//! as a note.

use serde_json::Value;

/// Words of which one is enough.
const TELLING: [&str; 22] = [
    "trainable",
    "training",
    "train",
    "losses",
    "loss",
    "weights",
    "weight",
    "masked",
    "masks",
    "mask",
    "ignored",
    "ignore",
    "labels",
    "supervised",
    "supervise",
    "unsupervised",
    "learnable",
    "learn",
    "skipped",
    "skip",
    "excluded",
    "exclude",
];

/// Words that stand beside these, of which a key without separators may be made.
const BESIDE: [&str; 24] = [
    "is",
    "do",
    "no",
    "not",
    "on",
    "has",
    "compute",
    "scale",
    "turn",
    "inputs",
    "input",
    "prompt",
    "detail",
    "history",
    "sample",
    "example",
    "message",
    "tokens",
    "token",
    "label",
    "completion",
    "assistant",
    "context",
    "only",
];

const NEGATIVE: [&str; 8] = [
    "no", "not", "ignore", "ignored", "skip", "skipped", "exclude", "excluded",
];
const PLAIN: [&str; 12] = [
    "is",
    "do",
    "has",
    "compute",
    "train",
    "trainable",
    "training",
    "learn",
    "learnable",
    "loss",
    "supervise",
    "supervised",
];

/// A key that says it with words which say nothing alone.
const CONTEXT_ONLY: [&str; 2] = ["context", "only"];
/// Bytes of a name without separators that is taken apart; longer ones are no keys that a person
/// made up.
const LONGEST_JOINED: usize = 64;

/// Whether a word of `key` tells what is trained on, however its words are joined.
pub(crate) fn says_what_is_trained(key: &str) -> bool {
    let words = words(key);
    words.iter().any(|word| TELLING.contains(&word.as_str())) || words == CONTEXT_ONLY
}

/// Whether `value` of such a key asks for what is done anyway: to train on all of the row, once.
pub(crate) fn asks_for_nothing(key: &str, value: &Value) -> bool {
    is_empty(value) || asks_for(key, value, true)
}

/// Whether `value` of such a key asks for no training, which messages that are not the assistant's
/// never have.
pub(crate) fn asks_to_be_left_out(key: &str, value: &Value) -> bool {
    is_empty(value) || asks_for(key, value, false)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether `key` is a yes or no, or a weight, by which `value` asks for training, or for none.
fn asks_for(key: &str, value: &Value, trained: bool) -> bool {
    let words = words(key);
    let given = match value {
        Value::Bool(given) => f64::from(u8::from(*given)),
        Value::Number(given) => given.as_f64().unwrap_or(f64::NAN),
        _ => return false,
    };
    let is_weight = words
        .last()
        .is_some_and(|last| last == "weight" || last == "scale");
    let negative = words
        .iter()
        .filter(|word| NEGATIVE.contains(&word.as_str()))
        .count();
    if is_weight {
        return negative == 0 && value.is_number() && given == f64::from(u8::from(trained));
    }
    let known = |word: &String| NEGATIVE.contains(&word.as_str()) || PLAIN.contains(&word.as_str());
    let turned = match words == CONTEXT_ONLY {
        true => true,
        false if words.iter().all(known) => negative % 2 == 1,
        false => return false,
    };
    given == f64::from(u8::from(trained != turned))
}

/// The words of `key` in small letters: at separators, at capitals, and within names of known words
/// alone.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for letter in key.chars() {
        let separates = !letter.is_alphanumeric();
        if separates || (small && letter.is_uppercase()) {
            words.push(String::new());
        }
        if let (false, Some(word)) = (separates, words.last_mut()) {
            word.extend(letter.to_lowercase());
        }
        small = letter.is_lowercase();
    }
    let parts = |word: String| {
        let known = Some(&word)
            .filter(|word| word.len() <= LONGEST_JOINED)
            .and_then(|word| known_words(word));
        known.unwrap_or_else(|| vec![word])
    };
    words
        .into_iter()
        .filter(|word| !word.is_empty())
        .flat_map(parts)
        .collect()
}

/// The known words of which `joined` is made, none where anything else is in it.
fn known_words(joined: &str) -> Option<Vec<String>> {
    if joined.is_empty() {
        return Some(Vec::new());
    }
    let mut starts = TELLING.iter().chain(&BESIDE);
    starts.find_map(|word| {
        let mut found = vec![(*word).to_owned()];
        found.extend(known_words(joined.strip_prefix(word)?)?);
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_known_however_they_are_written() {
        for key in [
            "weight",
            "loss_weight",
            "lossWeight",
            "loss-mask",
            "train_on",
            "TRAIN",
            "train_on_inputs",
            "mask",
            "is_trainable",
            "no_loss",
            "train_weight",
            "loss_scale",
            "do_train",
            "ignore_loss",
            "assistant_masks",
            "training_weight",
            "labels",
            "context_only",
            "isTrainable",
            "computeloss",
            "lossmask",
        ] {
            assert!(says_what_is_trained(key), "{key}");
        }
        for key in [
            "id",
            "source",
            "trained_model",
            "height",
            "name",
            "masking_tape",
            "constraint",
            "label",
            "gloss",
            "lossy",
        ] {
            assert!(!says_what_is_trained(key), "{key}");
        }
    }

    #[test]
    fn a_name_of_any_length_is_judged_at_once() {
        assert!(!says_what_is_trained(&"is".repeat(1 << 20)));
        assert!(says_what_is_trained(&format!(
            "{}_loss",
            "is".repeat(1 << 20)
        )));
    }

    #[test]
    fn only_what_is_done_anyway_asks_for_nothing() {
        for (key, value) in [
            ("weight", json!(1.0)),
            ("loss_weight", json!(1)),
            ("train", json!(true)),
            ("ignore", json!(false)),
            ("no_loss", json!(false)),
            ("is_trainable", json!(true)),
            ("do_train", json!(1)),
            ("loss_scale", json!(1)),
            ("context_only", json!(false)),
            ("computeLoss", json!(true)),
        ] {
            assert!(asks_for_nothing(key, &value), "{key}: {value}");
        }
        for (key, value) in [
            ("weight", json!(0)),
            ("train", json!(false)),
            ("ignore", json!(true)),
            ("mask", json!(false)),
            ("no_loss", json!(true)),
            ("train_on_inputs", json!(true)),
            ("loss_scale", json!(0.5)),
            ("labels", json!([1])),
            ("mask", json!([1])),
        ] {
            assert!(!asks_for_nothing(key, &value), "{key}: {value}");
        }
    }

    #[test]
    fn what_is_left_out_anyway_may_say_so() {
        for (key, value) in [
            ("train", json!(false)),
            ("no_loss", json!(true)),
            ("loss_weight", json!(0)),
        ] {
            assert!(asks_to_be_left_out(key, &value), "{key}: {value}");
        }
        for (key, value) in [
            ("train", json!(true)),
            ("mask", json!(true)),
            ("loss_weight", json!(1)),
        ] {
            assert!(!asks_to_be_left_out(key, &value), "{key}: {value}");
        }
    }
}
