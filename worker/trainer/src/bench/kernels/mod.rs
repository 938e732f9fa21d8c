//! Every operation of a training step, each alone, at the sizes of a micro-batch: where a step's
//! time goes.
//!
//! A row times what the step calls, through the same functions. DoRA's own operations are not among
//! them.

mod attention;
mod calls;
mod case;
mod ceilings;
mod elements;
mod inputs;
mod loss;
mod norms;
mod projections;
mod table;
mod update;

use std::sync::Arc;

use candle_core::{DType, Tensor};
use qlora_config::TargetModule;
use qlora_kernels::{Backend, NormWeight, Sequences, Span};

use self::calls::Calls;
use self::inputs::Inputs;
use self::table::Table;
use crate::Result;

pub use self::case::Case;
pub use self::table::Timing;

/// A case, and what follows from it.
struct Setting<'a> {
    case: Case<'a>,
    dtype: DType,
    backend: Arc<dyn Backend>,
    calls: Calls,
    /// Lengths of the packed sequences.
    lengths: Vec<usize>,
    sequences: Sequences,
    inputs: Inputs<'a>,
}

impl<'a> Setting<'a> {
    fn new(case: Case<'a>) -> Result<Self> {
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
    fn bytes(&self, elements: usize) -> f64 {
        (elements * self.dtype.size_in_bytes()) as f64
    }

    /// `weight` [D] as the model's norms take it.
    fn norm_weight<'w>(&self, weight: &'w Tensor) -> NormWeight<'w> {
        NormWeight {
            weight,
            unit_offset: self.case.shape.form.unit_offset,
        }
    }

    fn logit_cap(&self) -> Option<f32> {
        self.case.shape.form.logit_cap.map(|cap| cap as f32)
    }

    /// Those of `modules` that have an adapter.
    fn adapted(&self, modules: &[TargetModule]) -> Vec<TargetModule> {
        let targets = self.case.shape.targets(&self.case.config.lora);
        let has = |module: &TargetModule| targets.contains(module);
        modules.iter().copied().filter(has).collect()
    }
}

/// Times every operation, in the order of the step; two rates that the device reaches come first.
pub fn time(case: Case<'_>) -> Result<Vec<Timing>> {
    let setting = Setting::new(case)?;
    let mut table = Table::new(case.device);
    ceilings::time(&mut table, &setting)?;
    projections::time(&mut table, &setting)?;
    attention::time(&mut table, &setting)?;
    norms::time(&mut table, &setting)?;
    elements::time(&mut table, &setting)?;
    loss::time(&mut table, &setting)?;
    update::time(&mut table, &setting)?;
    Ok(table.rows())
}
