//! LoRA adapters: which projections have one, their values, and gradients of the same shape.

mod broken;
mod factors;
mod pass;

use candle_core::{DType, Device, Tensor};
use qlora_config::{LoraConfig, TargetModule};
use qlora_data::SplitMix64;
use qlora_kernels::types::adamw::Norm;
use qlora_kernels::{Backend, DropoutKey};
use qlora_planner::ModelShape;

use crate::Result;
use crate::process_group::ProcessGroup;

pub use factors::{FactorGrad, Factors, Magnitude, NAMES};
pub use pass::AdapterPass;

/// Where an adapter sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    pub layer: usize,
    pub module: TargetModule,
}

impl Site {
    /// The layer's name in a Hugging Face model.
    pub fn module_path(&self) -> String {
        let parent = if self.module.is_attention() {
            "self_attn"
        } else {
            "mlp"
        };
        format!(
            "model.layers.{}.{parent}.{}",
            self.layer,
            self.module.name()
        )
    }

    /// A number of its own for the dropout masks of this site.
    fn mask_number(&self) -> u32 {
        (self.layer * 8 + self.module.index()) as u32
    }
}

/// All adapters of a model.
#[derive(Debug, Clone)]
pub struct Adapters {
    config: LoraConfig,
    seed: u64,
    pub sites: Vec<Site>,
    pub factors: Vec<Factors>,
}

/// What the dropout masks of a training pass depend on, besides the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskPosition {
    pub step: u64,
    /// Index, within the step, of the pass's first token.
    pub first_token: u64,
}

impl Adapters {
    /// A ~ U(-1/sqrt(in), 1/sqrt(in)) and B = 0, as PEFT initializes them; the same seed gives the
    /// same values.
    ///
    /// Magnitudes follow from the frozen weights: see [`crate::model::Decoder::adapters`].
    pub fn initialize(
        config: &LoraConfig,
        shape: &ModelShape,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let sites = Self::sites(config, shape);
        let mut random = SplitMix64::new(seed);
        let factors = sites
            .iter()
            .map(|site| {
                let (outputs, inputs) = shape.projection(site.module);
                let bound = 1.0 / (inputs as f32).sqrt();
                let values: Vec<f32> = (0..config.r * inputs)
                    .map(|_| bound * random.signed_unit())
                    .collect();
                let a = Tensor::from_vec(values, (config.r, inputs), device)?;
                Ok(Factors::new(
                    a,
                    Tensor::zeros((outputs, config.r), DType::F32, device)?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            seed,
            sites,
            factors,
        })
    }

    /// The smallest adapters, which change nothing: B is zero.
    pub fn without_effect(shape: &ModelShape, device: &Device) -> Result<Self> {
        let config = LoraConfig {
            r: 1,
            alpha: 1.0,
            rslora: false,
            dora: false,
            loraplus_ratio: 1.0,
            dropout: 0.0,
            target_modules: shape.modules()[..1].to_vec(),
        };
        Self::initialize(&config, shape, 0, device)
    }

    /// Adapters with the given values, in the order of [`Self::sites`].
    pub fn from_factors(
        config: &LoraConfig,
        shape: &ModelShape,
        seed: u64,
        factors: Vec<Factors>,
    ) -> Self {
        Self {
            config: config.clone(),
            seed,
            sites: Self::sites(config, shape),
            factors,
        }
    }

    /// Adapters at `sites`, which ascend, with the values of each.
    pub fn at_sites(
        config: LoraConfig,
        sites: Vec<Site>,
        seed: u64,
        factors: Vec<Factors>,
    ) -> Self {
        debug_assert!(sites.is_sorted() && sites.len() == factors.len());
        Self {
            config,
            seed,
            sites,
            factors,
        }
    }

    /// Every place where `config` puts an adapter, block by block in the order of the forward pass.
    pub fn sites(config: &LoraConfig, shape: &ModelShape) -> Vec<Site> {
        let modules = shape.targets(config);
        (0..shape.layers)
            .flat_map(|layer| modules.iter().map(move |&module| Site { layer, module }))
            .collect()
    }

    /// The layers of a block that have one, in the order of the configuration where that names
    /// them.
    pub fn modules(&self) -> Vec<TargetModule> {
        let has = |module: &&TargetModule| self.sites.iter().any(|site| site.module == **module);
        let named = &self.config.target_modules;
        let others = TargetModule::ALL.iter().filter(|m| !named.contains(m));
        named.iter().chain(others).filter(has).copied().collect()
    }

    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The noise that NEFTune puts on embeddings at `position`.
    pub fn embedding_noise(&self, position: MaskPosition) -> DropoutKey {
        let (step, first_token) = (position.step as u32, position.first_token);
        DropoutKey {
            seed: self.seed,
            step,
            projection: u32::MAX,
            first_token,
            probability: 0.0,
        }
    }

    /// How many parameters are trained.
    pub fn parameters(&self) -> usize {
        self.factors.iter().map(Factors::parameters).sum()
    }

    /// Index of the adapter at `layer` and `module`.
    pub fn index(&self, layer: usize, module: TargetModule) -> Option<usize> {
        self.sites.binary_search(&Site { layer, module }).ok()
    }

    /// The adapter at `layer` and `module` for one pass; masks are drawn only where `position` is
    /// given.
    pub fn pass(
        &self,
        layer: usize,
        module: TargetModule,
        position: Option<MaskPosition>,
    ) -> Option<AdapterPass<'_>> {
        let index = self.index(layer, module)?;
        let mask = position
            .filter(|_| self.config.dropout > 0.0)
            .map(|p| DropoutKey {
                seed: self.seed,
                step: p.step as u32,
                projection: self.sites[index].mask_number(),
                first_token: p.first_token,
                probability: self.config.dropout,
            });
        Some(AdapterPass {
            factors: &self.factors[index],
            scale: self.config.scale(),
            mask,
        })
    }
}

/// Gradients of all adapters.
#[derive(Debug, Clone)]
pub struct Gradients(Vec<Option<FactorGrad>>);

impl Gradients {
    pub fn none(adapters: &Adapters) -> Self {
        Self(vec![None; adapters.sites.len()])
    }

    /// Takes the gradient of the site `index`.
    pub fn set(&mut self, index: usize, grad: FactorGrad) {
        self.0[index] = Some(grad);
    }

    /// The sum of both.
    pub fn plus(self, backend: &dyn Backend, other: Self) -> Result<Self> {
        let sum = |(one, two)| match (one, two) {
            (Some(one), Some(two)) => FactorGrad::plus(one, backend, two).map(Some),
            (one, two) => Ok(Option::or(one, two)),
        };
        self.0
            .into_iter()
            .zip(other.0)
            .map(sum)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The sum over all of `group`.
    pub fn summed(self, backend: &dyn Backend, group: &mut dyn ProcessGroup) -> Result<Self> {
        if group.world_size() == 1 {
            return Ok(self);
        }
        let whole = self
            .tensors()
            .map(Tensor::contiguous)
            .collect::<Result<Vec<_>, _>>()?;
        let sum = group.sum(&backend.concat(&whole.iter().collect::<Vec<_>>())?)?;
        let mut start = 0;
        let mut part = |like: &Tensor| {
            let n = like.elem_count();
            start += n;
            Ok(sum.narrow(0, start - n, n)?.reshape(like.dims())?)
        };
        let entries = self
            .0
            .iter()
            .map(|entry| entry.as_ref().map(|grad| grad.map(&mut part)).transpose());
        entries.collect::<Result<_>>().map(Self)
    }

    /// One entry a site; none where no gradient has arrived.
    pub fn entries(&self) -> &[Option<FactorGrad>] {
        &self.0
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().flatten().flat_map(FactorGrad::tensors)
    }

    /// L2 norm over all tensors.
    pub fn norm(&self, backend: &dyn Backend) -> Result<Norm> {
        Ok(backend.grad_norm(&self.tensors().collect::<Vec<_>>())?)
    }
}
