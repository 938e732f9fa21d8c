//! What every operation of a [`Case`] is timed with: sizes, backend, counts of calls and inputs. It
//! times nothing.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use qlora_config::TargetModule;
use qlora_kernels::{Backend, NormWeight, Sequences, Span};

use super::calls::Calls;
use super::case::Case;
use super::inputs::Inputs;
use crate::Result;

/// A case, and what follows from it.
pub(super) struct Setting<'a> {
    pub case: Case<'a>,
    pub dtype: DType,
    pub backend: Arc<dyn Backend>,
    pub calls: Calls,
    /// Lengths of the packed sequences.
    pub lengths: Vec<usize>,
    pub sequences: Sequences,
    pub inputs: Inputs<'a>,
}

impl<'a> Setting<'a> {
    pub(super) fn new(case: Case<'a>) -> Result<Self> {
        let backend = case.backend.clone();
        let mut lengths = vec![case.length; case.tokens / case.length];
        lengths.extend(
            (!case.tokens.is_multiple_of(case.length)).then_some(case.tokens % case.length),
        );
        Ok(Self {
            dtype: backend.dtype(),
            calls: Calls::new(&case, backend.matmul()),
            sequences: backend.sequences(&Span::packed(&lengths))?,
            backend,
            lengths,
            inputs: Inputs::new(case.device),
            case,
        })
    }

    /// Bytes of `elements` activations.
    pub(super) fn bytes(&self, elements: usize) -> f64 {
        (elements * self.dtype.size_in_bytes()) as f64
    }

    /// `weight` [D] as the model's norms take it.
    pub(super) fn norm_weight<'w>(&self, weight: &'w Tensor) -> NormWeight<'w> {
        NormWeight {
            weight,
            unit_offset: self.case.shape.form.unit_offset,
        }
    }

    pub(super) fn logit_cap(&self) -> Option<f32> {
        self.case.shape.form.logit_cap.map(|cap| cap as f32)
    }

    /// Those of `modules` that have an adapter.
    pub(super) fn adapted(&self, modules: &[TargetModule]) -> Vec<TargetModule> {
        let targets = self.case.shape.targets(&self.case.config.lora);
        let has = |module: &TargetModule| targets.contains(module);
        modules.iter().copied().filter(has).collect()
    }
}
