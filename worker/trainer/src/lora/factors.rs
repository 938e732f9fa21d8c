//! What is trained at one site: the factors of a low-rank update, and with DoRA the magnitudes of
//! the rows.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use qlora_kernels::Backend;

use crate::Result;

/// The two factors of an update, in `f32`: A [R, in] and B [out, R].
#[derive(Debug, Clone)]
pub struct Factors {
    pub a: Tensor,
    pub b: Tensor,
    /// With DoRA only.
    pub magnitude: Option<Magnitude>,
}

/// The magnitudes of DoRA (Liu et al., 2024): W' = m (W + s B A) / |W + s B A|, row by row.
#[derive(Debug, Clone)]
pub struct Magnitude {
    /// m [out], in `f32`.
    pub value: Tensor,
    /// |W + s B A| [out] of the factors that it stands beside, once it has been needed.
    norms: OnceLock<Tensor>,
}

impl Magnitude {
    pub fn new(value: Tensor) -> Self {
        Self {
            value,
            norms: OnceLock::new(),
        }
    }

    /// |W + s B A| [out]; `measure` finds it where it is not known yet.
    pub(crate) fn norms(&self, measure: impl FnOnce() -> Result<Tensor>) -> Result<&Tensor> {
        match self.norms.get() {
            Some(norms) => Ok(norms),
            None => {
                let norms = measure()?;
                Ok(self.norms.get_or_init(|| norms))
            }
        }
    }
}

/// Names of the tensors of a site in PEFT's files, in the order in which they are trained and
/// stored.
pub const NAMES: [&str; 3] = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"];

impl Factors {
    /// Factors without magnitudes.
    pub fn new(a: Tensor, b: Tensor) -> Self {
        Self {
            a,
            b,
            magnitude: None,
        }
    }

    /// The tensors that are trained, in the order of [`NAMES`].
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b]
            .into_iter()
            .chain(self.magnitude.as_ref().map(|m| &m.value))
    }

    /// The same with the tensors that `change` makes of each, and its place in the order of
    /// [`NAMES`].
    pub fn map(&self, mut change: impl FnMut(usize, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let (a, b) = (change(0, &self.a)?, change(1, &self.b)?);
        let magnitude = self
            .magnitude
            .as_ref()
            .map(|m| Ok::<_, crate::Error>(Magnitude::new(change(2, &m.value)?)));
        Ok(Self {
            a,
            b,
            magnitude: magnitude.transpose()?,
        })
    }

    /// How many parameters are trained.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::elem_count).sum()
    }

    /// The update s B A [out, in] written out.
    pub fn update(&self, scale: f64) -> Result<Tensor> {
        Ok((self.b.matmul(&self.a)? * scale)?)
    }

    /// `weight` [out, in] with the update merged into it, in `f32`.
    pub fn merged_into(&self, weight: &Tensor, scale: f64) -> Result<Tensor> {
        let sum = (weight.to_dtype(DType::F32)? + self.update(scale)?)?;
        let Some(magnitude) = &self.magnitude else {
            return Ok(sum);
        };
        let ratio = (&magnitude.value / sum.sqr()?.sum(1)?.sqrt()?)?;
        Ok(sum.broadcast_mul(&ratio.unsqueeze(1)?)?)
    }
}

/// Gradients of [`Factors`], in `f32`.
#[derive(Debug, Clone)]
pub struct FactorGrad {
    pub a: Tensor,
    pub b: Tensor,
    pub magnitude: Option<Tensor>,
}

impl FactorGrad {
    /// In the order of [`NAMES`].
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }

    /// The same with the tensors that `change` makes of each, in the order of [`NAMES`].
    pub(crate) fn map(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (a, b) = (change(&self.a)?, change(&self.b)?);
        Ok(Self {
            a,
            b,
            magnitude: self.magnitude.as_ref().map(change).transpose()?,
        })
    }

    pub(crate) fn plus(self, backend: &dyn Backend, other: Self) -> Result<Self> {
        let magnitude = match (self.magnitude, other.magnitude) {
            (Some(one), Some(two)) => Some(backend.add(&one, &two)?),
            (one, two) => one.or(two),
        };
        Ok(Self {
            a: backend.add(&self.a, &other.a)?,
            b: backend.add(&self.b, &other.b)?,
            magnitude,
        })
    }
}
