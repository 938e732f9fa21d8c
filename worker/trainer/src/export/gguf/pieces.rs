//! What a tokenizer that falls back to bytes does with spaces before it merges: llama.cpp's `llama`
//! does one thing only.

use serde_json::{Value as Json, json};

/// Where text gets a space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Never,
    /// At the beginning, and not after a special token.
    First,
    /// At the beginning and after every special token, as in llama.cpp.
    Always,
}

/// What a person should hear of a tokenizer of [`Prefix::First`].
pub(super) const FIRST: &str = "llama.cpp puts a space before text that follows a special token, and this tokenizer does not (prepend_scheme: first)";

/// Where the tokenizer `json` puts a space of its own.
///
/// # Errors
/// It does something with text that llama.cpp does not, by the name of the step.
pub(super) fn prefix(json: &Json) -> Result<Prefix, String> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if json["model"][key]
            .as_str()
            .is_some_and(|text| !text.is_empty())
        {
            return Err(format!(
                "has `{key}: {}`, for which GGUF has no form",
                json["model"][key]
            ));
        }
    }
    let mut found = Spaces {
        prefix: Prefix::Never,
        replaced: false,
    };
    for step in steps(&json["normalizer"], "normalizers") {
        found.normalizer(step)?;
    }
    for step in steps(&json["pre_tokenizer"], "pretokenizers") {
        found.pre_tokenizer(step)?;
    }
    if found.replaced {
        Ok(found.prefix)
    } else {
        Err("does not write spaces as `▁`, as llama.cpp does".into())
    }
}

/// The steps of a sequence, or the only one.
fn steps<'a>(step: &'a Json, parts: &str) -> &'a [Json] {
    match step {
        Json::Null => &[],
        sequence if sequence["type"] == "Sequence" => {
            sequence[parts].as_array().map_or(&[], Vec::as_slice)
        }
        one => std::slice::from_ref(one),
    }
}

struct Spaces {
    prefix: Prefix,
    replaced: bool,
}

impl Spaces {
    fn normalizer(&mut self, step: &Json) -> Result<(), String> {
        let is = |key: &str, value: Json| step[key] == value;
        if is("type", "Prepend".into()) && is("prepend", "▁".into()) {
            self.prefix = Prefix::Always;
        } else if is("type", "Replace".into())
            && is("pattern", json!({"String": " "}))
            && is("content", "▁".into())
        {
            self.replaced = true;
        } else {
            return Err(format!(
                "has the normalizer {step}, for which GGUF has no form"
            ));
        }
        Ok(())
    }

    fn pre_tokenizer(&mut self, step: &Json) -> Result<(), String> {
        // Spaces are gone by now, so nothing is cut.
        if self.replaced && step["type"] == "Split" && step["pattern"] == json!({"String": " "}) {
            return Ok(());
        }
        if step["type"] != "Metaspace" || step["replacement"] != "▁" || step["split"] != false {
            return Err(format!(
                "has the pre-tokenizer {step}, for which GGUF has no form"
            ));
        }
        self.replaced = true;
        self.prefix = match (
            step["prepend_scheme"].as_str(),
            step["add_prefix_space"].as_bool(),
        ) {
            (Some("never"), _) | (None, Some(false)) => self.prefix,
            (Some("first"), _) if self.prefix == Prefix::Never => Prefix::First,
            _ => Prefix::Always,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(normalizer: Json, pre_tokenizer: Json) -> Result<Prefix, String> {
        prefix(&json!({"model": {}, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}))
    }

    #[test]
    fn what_llama_cpp_does_is_told_from_what_it_does_not() {
        let replace = || json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let both = |steps: &[&Json]| json!({"type": "Sequence", "normalizers": steps});
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        for (normalizer, pre_tokenizer, wanted) in [
            (both(&[&prepend, &replace()]), Json::Null, Prefix::Always),
            (replace(), Json::Null, Prefix::Never),
            (
                replace(),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}),
                Prefix::Never,
            ),
            (Json::Null, metaspace("first"), Prefix::First),
            (Json::Null, metaspace("always"), Prefix::Always),
            (Json::Null, metaspace("never"), Prefix::Never),
            (
                Json::Null,
                json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true, "split": false}),
                Prefix::Always,
            ),
        ] {
            assert_eq!(
                of(normalizer.clone(), pre_tokenizer.clone()),
                Ok(wanted),
                "{normalizer} {pre_tokenizer}"
            );
        }
        let split = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        for (normalizer, pre_tokenizer, word) in [
            (Json::Null, Json::Null, "spaces"),
            (json!({"type": "NFKC"}), metaspace("first"), "NFKC"),
            (
                both(&[&replace(), &json!({"type": "Lowercase"})]),
                Json::Null,
                "Lowercase",
            ),
            (
                replace(),
                json!({"type": "Digits", "individual_digits": true}),
                "Digits",
            ),
            (Json::Null, split, "Metaspace"),
        ] {
            let fault = of(normalizer, pre_tokenizer).expect_err("it was taken");
            assert!(fault.contains(word), "{fault}");
        }
    }
}
