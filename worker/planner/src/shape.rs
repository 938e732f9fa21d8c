//! The sizes and constants of a decoder.

use std::fmt;

use qlora_config::{LoraConfig, TargetModule, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::form::{DecoderForm, LayerForm, LayerRope, RopeScaling};

/// Everything about a model that its weights do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// D.
    pub hidden: usize,
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// F.
    pub ffn: usize,
    /// V.
    pub vocabulary: usize,
    /// The embedding serves as output layer.
    pub tied_embeddings: bool,
    pub norm_epsilon: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// Tokens that a token sees, itself included, where `form` gives no layer a window of its own.
    pub sliding_window: Option<usize>,
    pub max_positions: usize,
    /// What sets its decoder apart from Llama's.
    #[serde(default)]
    pub form: DecoderForm,
}

/// Elements of the widest vector between two layers, and blocks, and tokens of the largest
/// vocabulary: several times those of the largest models that are published. What a memory plan
/// adds up of them is counted in 64 bits then, for every configuration within its ranges.
const WIDEST: usize = 1 << 18;
const MOST_LAYERS: usize = 1 << 10;
const MOST_TOKENS: usize = 1 << 22;

impl ModelShape {
    /// `self` where its sizes are those of a model that could be; every shape that a file gives
    /// passes here, since nothing below looks whether its products overflow.
    ///
    /// # Errors
    /// A size is beyond all models.
    pub fn counted(self) -> Result<Self, Oversized> {
        let of_heads = |heads: usize| heads.saturating_mul(self.head_dim);
        for (dimension, size, most) in [
            (Dimension::Hidden, self.hidden, WIDEST),
            (Dimension::Queries, of_heads(self.heads), WIDEST),
            (Dimension::Keys, of_heads(self.kv_heads), WIDEST),
            (Dimension::FeedForward, self.ffn, WIDEST),
            (Dimension::Layers, self.layers, MOST_LAYERS),
            (Dimension::Vocabulary, self.vocabulary, MOST_TOKENS),
        ] {
            if size > most {
                return Err(Oversized {
                    dimension,
                    size,
                    most,
                });
            }
        }
        Ok(self)
    }

    /// (out, in) of a linear layer.
    pub fn projection(&self, module: TargetModule) -> (usize, usize) {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match module {
            TargetModule::QkvProj => (q + 2 * kv, self.hidden),
            TargetModule::QProj => (q, self.hidden),
            TargetModule::KProj | TargetModule::VProj => (kv, self.hidden),
            TargetModule::OProj => (self.hidden, q),
            TargetModule::GateUpProj => (2 * self.ffn, self.hidden),
            TargetModule::GateProj | TargetModule::UpProj => (self.ffn, self.hidden),
            TargetModule::DownProj => (self.hidden, self.ffn),
        }
    }

    /// The linear layers of a block, in the order of its forward pass.
    pub fn modules(&self) -> &'static [TargetModule] {
        if self.form.fused {
            &TargetModule::FUSED
        } else {
            &TargetModule::SEPARATE
        }
    }

    /// The layers of a block that `lora` puts adapters on. A fused layer is meant by its own name,
    /// or by those of all its parts.
    pub fn targets(&self, lora: &LoraConfig) -> Vec<TargetModule> {
        let named = |module: &TargetModule| lora.target_modules.contains(module);
        let whole = |module: &TargetModule| {
            let parts = module.parts();
            !parts.is_empty() && parts.iter().all(named)
        };
        let is_target = |module: &TargetModule| named(module) || whole(module);
        self.modules().iter().copied().filter(is_target).collect()
    }

    /// The first layer that `lora` asks for and the model does not have.
    pub fn lacking(&self, lora: &LoraConfig) -> Option<TargetModule> {
        let targets = self.targets(lora);
        let is_had = |module: &TargetModule| {
            targets.contains(module) || targets.iter().any(|target| target.parts().contains(module))
        };
        lora.target_modules
            .iter()
            .copied()
            .find(|module| !is_had(module))
    }

    /// Attention of the block `layer`.
    pub fn layer(&self, layer: usize) -> LayerForm {
        let alike = LayerForm {
            window: self.sliding_window,
            rope: LayerRope::Global,
        };
        self.form.layers.get(layer).copied().unwrap_or(alike)
    }

    /// Elements of the largest linear layer.
    pub fn largest_layer(&self) -> usize {
        let size = |&module: &TargetModule| {
            let (rows, cols) = self.projection(module);
            rows * cols
        };
        self.modules().iter().map(size).max().unwrap_or_default()
    }

    /// Parameters of one block's linear layers.
    pub fn block_parameters(&self) -> usize {
        self.modules()
            .iter()
            .map(|&m| self.projection(m))
            .map(|(o, i)| o * i)
            .sum()
    }

    /// Parameters of the embedding and, where it is separate, of the output layer.
    pub fn table_parameters(&self) -> usize {
        self.vocabulary * self.hidden * if self.tied_embeddings { 1 } else { 2 }
    }

    /// Parameters of one block's norms and biases.
    fn vector_parameters(&self) -> usize {
        let form = &self.form;
        let norms = self.hidden * if form.norms_after { 4 } else { 2 };
        let head_norms = if form.head_norms {
            2 * self.head_dim
        } else {
            0
        };
        let biased = |m: &&TargetModule| form.has_bias(**m);
        let biases = self.modules().iter().filter(biased);
        norms + head_norms + biases.map(|&m| self.projection(m).0).sum::<usize>()
    }

    pub fn parameters(&self) -> usize {
        self.layers * (self.block_parameters() + self.vector_parameters())
            + self.table_parameters()
            + self.hidden
    }

    /// Parameters of the adapters that `lora` asks for.
    pub fn adapter_parameters(&self, lora: &LoraConfig) -> usize {
        let site = |&m: &TargetModule| {
            let (outputs, inputs) = self.projection(m);
            lora.r * (outputs + inputs) + if lora.dora { outputs } else { 0 }
        };
        self.layers * self.targets(lora).iter().map(site).sum::<usize>()
    }
}

/// What a size of a model is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    Hidden,
    /// All query heads together.
    Queries,
    /// All key heads together.
    Keys,
    FeedForward,
    Layers,
    Vocabulary,
}

/// A size that is beyond all models; who read it knows the key that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversized {
    pub dimension: Dimension,
    size: usize,
    most: usize,
}

impl fmt::Display for Oversized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, most, .. } = self;
        match self.dimension {
            Dimension::Hidden => write!(f, "hidden states of {size} elements"),
            Dimension::Queries => write!(f, "{size} elements of all query heads"),
            Dimension::Keys => write!(f, "{size} elements of all key heads"),
            Dimension::FeedForward => write!(f, "feed-forward layers of {size} elements"),
            Dimension::Layers => write!(f, "{size} blocks"),
            Dimension::Vocabulary => write!(f, "{size} tokens"),
        }?;
        write!(f, "; {most} are computed with at the most")
    }
}

impl std::error::Error for Oversized {}

/// What a configuration asks for and a model does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The key that asks for it.
    pub key: &'static str,
    pub message: String,
    /// The way out.
    pub help: String,
}

/// What of `config` does not fit a model of `shape`.
pub fn misfits(shape: &ModelShape, config: &TrainingConfig) -> Vec<Misfit> {
    let base = config.model.base.as_deref().unwrap_or_default();
    let (asked, known) = (config.data.max_seq_len, shape.max_positions);
    let positions = (asked > known).then(|| Misfit {
        key: "data.max_seq_len",
        message: format!(
            "`data.max_seq_len` is {asked}, more than the {known} positions that `{base}` knows"
        ),
        help: "lower data.max_seq_len; `qlora-ctl data check` prints the lengths of your rows"
            .into(),
    });
    let modules = shape.lacking(&config.lora).map(|module| {
        let names: Vec<_> = shape.modules().iter().map(|module| module.name()).collect();
        Misfit {
            key: "lora.target_modules",
            message: format!("`lora.target_modules` has {module}, which `{base}` does not have"),
            help: match shape
                .modules()
                .iter()
                .find(|whole| whole.parts().contains(&module))
            {
                Some(whole) => {
                    let parts: Vec<_> = whole.parts().iter().map(|part| part.name()).collect();
                    let parts = parts.join(", ");
                    format!("write {whole}, which holds {parts}, or name all of these")
                }
                None => format!("choose from {}, or write all-linear", names.join(", ")),
            },
        }
    });
    positions.into_iter().chain(modules).collect()
}

#[cfg(test)]
mod tests {
    use qlora_config::DeviceKind;

    use super::*;
    use crate::uploads::tests::config;
    use crate::{find, plan};

    /// The shape of Llama 3.1 8B with another size.
    fn with(change: impl FnOnce(&mut ModelShape)) -> ModelShape {
        let entry = find("llama-3.1-8b-instruct").expect("an entry of the catalogue");
        let mut shape = entry.shape;
        change(&mut shape);
        shape
    }

    #[test]
    fn sizes_whose_products_no_number_holds_are_refused_by_what_they_are_of() {
        let huge = u32::MAX as usize;
        type Change = fn(&mut ModelShape, usize);
        let changes: [(Dimension, Change); 7] = [
            (Dimension::Hidden, |shape, size| shape.hidden = size),
            (Dimension::Queries, |shape, size| shape.heads = size),
            (Dimension::Queries, |shape, size| shape.head_dim = size),
            (Dimension::Keys, |shape, size| shape.kv_heads = size),
            (Dimension::FeedForward, |shape, size| shape.ffn = size),
            (Dimension::Layers, |shape, size| shape.layers = size),
            (Dimension::Vocabulary, |shape, size| shape.vocabulary = size),
        ];
        for (dimension, change) in changes {
            for size in [huge, usize::MAX] {
                let refused = with(|shape| change(shape, size)).counted();
                let fault = refused.expect_err("a size that no model has");
                assert_eq!(fault.dimension, dimension, "{fault}");
                assert!(fault.to_string().contains("at the most"), "{fault}");
            }
        }
        assert!(with(|_| ()).counted().is_ok());
    }

    #[test]
    fn the_largest_sizes_are_counted_in_every_part_of_a_plan() {
        let largest = with(|shape| {
            (shape.hidden, shape.ffn, shape.vocabulary) = (WIDEST, WIDEST, MOST_TOKENS);
            (shape.heads, shape.kv_heads, shape.head_dim) = (WIDEST / 128, WIDEST / 128, 128);
            (shape.layers, shape.tied_embeddings) = (MOST_LAYERS, false);
        });
        let largest = largest.counted().expect("sizes that are taken");
        // 4 of attention and 3 of the feed-forward layer.
        assert_eq!(largest.block_parameters(), 7 * WIDEST * WIDEST);
        assert!(largest.parameters() > MOST_LAYERS * 7 * WIDEST * WIDEST);
        let half = ModelShape {
            layers: MOST_LAYERS / 2,
            ..largest.clone()
        };
        let widest = config(&[
            "data.max_seq_len=1048576",
            "training.micro_batch_size=4096",
            "lora.r=1024",
            "lora.target_modules=all-linear",
        ]);
        for kind in [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal] {
            let (all, half) = (plan(&largest, &widest, kind), plan(&half, &widest, kind));
            assert!(all.total() > half.total(), "{kind}: {all:?}, {half:?}");
            assert!(all.activations > half.activations, "{kind}: {all:?}");
        }
    }
}
