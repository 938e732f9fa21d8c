//! Keys that take a word or a truth value.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is computed again in the backward pass instead of being kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// On a GPU of each block as little as its memory allows; on a processor as with `On`.
    Auto,
    /// All of each block but its input.
    On,
    /// Nothing.
    Off,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// On a GPU whichever is faster there, our kernels or cuDNN.
    Auto,
    /// Refuse a worker that has none; else as `auto`.
    Required,
    /// On a GPU our kernels, with which a repeated step is bit-identical.
    Repeatable,
    /// On a GPU cuDNN; a run that cannot have it fails.
    Cudnn,
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
