//! The section `lora`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Scale by `alpha / sqrt(r)` instead (rsLoRA, Kalajdzievski, 2023).
    pub rslora: bool,
    /// Train the magnitudes of the merged weight's rows too (DoRA, Liu et al., 2024).
    pub dora: bool,
    /// Learning rate of B over that of A (LoRA+, Hayou et al., 2024); 1 trains both alike.
    pub loraplus_ratio: f64,
    /// Probability with which an input element of an adapter is dropped.
    pub dropout: f64,
    /// Linear layers that get an adapter: a list, each named once, or `all-linear`.
    #[serde(deserialize_with = "target_modules")]
    #[schemars(schema_with = "modules_schema")]
    pub target_modules: Vec<TargetModule>,
}

impl LoraConfig {
    /// What the low-rank product is multiplied with.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// A linear layer of a decoder block; a model has either the parts or the fused layer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TargetModule {
    // Queries, keys and values in one matrix. Variants have no documentation of their own: the
    // schema lists their words.
    QkvProj,
    QProj,
    KProj,
    VProj,
    OProj,
    // Gate and up in one matrix.
    GateUpProj,
    GateProj,
    UpProj,
    DownProj,
}

impl TargetModule {
    /// All of them, in the order of the block's forward pass.
    pub const ALL: [TargetModule; 9] = [
        Self::QkvProj,
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateUpProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// The layers of a model without fused ones, in the order of the block's forward pass.
    pub const SEPARATE: [TargetModule; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];
    /// The layers of a model with fused ones.
    pub const FUSED: [TargetModule; 4] =
        [Self::QkvProj, Self::OProj, Self::GateUpProj, Self::DownProj];

    /// The layers that a fused one holds in one matrix; none of a layer that is not fused.
    pub fn parts(self) -> &'static [TargetModule] {
        match self {
            Self::QkvProj => &[Self::QProj, Self::KProj, Self::VProj],
            Self::GateUpProj => &[Self::GateProj, Self::UpProj],
            _ => &[],
        }
    }

    /// The layer's name in a Hugging Face checkpoint, without its parent module.
    pub fn name(self) -> &'static str {
        match self {
            Self::QkvProj => "qkv_proj",
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateUpProj => "gate_up_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// Whether it is a layer of attention, and not of the feed-forward layer.
    pub fn is_attention(self) -> bool {
        self <= Self::OProj
    }

    /// A number below 7, of which the layers of one model have one each.
    pub fn index(self) -> usize {
        match self {
            Self::QkvProj | Self::QProj => 0,
            Self::KProj => 1,
            Self::VProj => 2,
            Self::OProj => 3,
            Self::GateUpProj | Self::GateProj => 4,
            Self::UpProj => 5,
            Self::DownProj => 6,
        }
    }
}

/// The word for all modules.
pub(crate) const ALL_LINEAR: &str = "all-linear";

/// What [`target_modules`] and the check of the list take.
fn modules_schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            {"const": ALL_LINEAR},
            {
                "type": "array",
                "items": generator.subschema_for::<TargetModule>(),
                "minItems": 1,
                "uniqueItems": true,
            },
        ],
    })
}

/// A list of modules, or [`ALL_LINEAR`].
fn target_modules<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<TargetModule>, D::Error> {
    struct Modules;

    impl<'de> Visitor<'de> for Modules {
        type Value = Vec<TargetModule>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of modules, or all-linear")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            match word {
                ALL_LINEAR => Ok(TargetModule::SEPARATE.to_vec()),
                other => Err(E::unknown_variant(
                    other,
                    &[ALL_LINEAR, "a list such as [q_proj, v_proj]"],
                )),
            }
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| list.next_element().transpose()).collect()
        }
    }

    deserializer.deserialize_any(Modules)
}

impl fmt::Display for TargetModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
