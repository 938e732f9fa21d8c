//! Keys that take a word or a truth value.

use std::fmt;

use schemars::{JsonSchema, Schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// What is computed again in the backward pass instead of being kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase", transform = truth_values)]
pub enum Checkpointing {
    /// On a GPU as little of each block as its memory requires, on a CPU as with `true`.
    Auto,
    /// All of each block but its input: less memory and more time.
    On,
    /// Nothing: everything is kept.
    Off,
}

/// Turns the words `on` and `off` into the truth values that stand for them in a file.
fn truth_values(schema: &mut Schema) {
    for (word, value) in [("on", true), ("off", false)] {
        for form in forms(schema).filter(|form| form["const"] == word) {
            form["type"] = "boolean".into();
            form["const"] = value.into();
        }
    }
}

/// Adds the truth values that YAML 1.1 reads `off` and its opposite as.
fn or_truth_values(schema: &mut Schema) {
    if let Some(Value::Array(forms)) = schema.get_mut("oneOf") {
        forms.push(
            json!({"type": "boolean", "description": "`true` is `required`, `false` is `off`."}),
        );
    }
}

fn forms(schema: &mut Schema) -> impl Iterator<Item = &mut Value> {
    let forms = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    forms.into_iter().flatten()
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = Checkpointing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, true or false")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Checkpointing, E> {
                Ok(if on {
                    Checkpointing::On
                } else {
                    Checkpointing::Off
                })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Checkpointing, E> {
                match word {
                    "auto" => Ok(Checkpointing::Auto),
                    other => Err(E::unknown_variant(other, &["auto", "true", "false"])),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}

/// Whether attention runs without forming its matrix of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = or_truth_values)]
pub enum FlashAttention {
    /// On a CUDA GPU whichever is faster there: our kernels, or cuDNN where the worker is built with
    /// it and finds it. The sums of cuDNN change their order from run to run.
    Auto,
    /// As `auto`, and workers without flash attention are refused.
    Required,
    /// On a CUDA GPU our kernels, with which a repeated step is bit-identical.
    Repeatable,
    /// cuDNN, with `resources.device: cuda`; a run that cannot have it fails at its start.
    Cudnn,
    /// Flash attention is not asked for.
    Off,
}

/// YAML reads a bare `off` as false, so the truth values are words here too.
impl<'de> Deserialize<'de> for FlashAttention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = FlashAttention;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, required, repeatable, cudnn or off")
            }

            fn visit_bool<E: de::Error>(self, required: bool) -> Result<FlashAttention, E> {
                Ok(if required {
                    FlashAttention::Required
                } else {
                    FlashAttention::Off
                })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<FlashAttention, E> {
                match word {
                    "auto" => Ok(FlashAttention::Auto),
                    "required" => Ok(FlashAttention::Required),
                    "repeatable" => Ok(FlashAttention::Repeatable),
                    "cudnn" => Ok(FlashAttention::Cudnn),
                    "off" => Ok(FlashAttention::Off),
                    other => Err(E::unknown_variant(
                        other,
                        &["auto", "required", "repeatable", "cudnn", "off"],
                    )),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}
