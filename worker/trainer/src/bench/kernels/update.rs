//! The end of a step: the gradient's norm, and the update of all adapters.

use candle_core::{DType, Tensor};
use qlora_config::OptimizerKind;

use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::lora::{Adapters, FactorGrad, Gradients};
use crate::optim::Optimizer;

/// Bytes that the update of a parameter reads and writes: value and gradient in `f32`, moments in
/// `f32` or in 8 bits.
const FULL: usize = 28;
const CODED: usize = 16;

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let case = &setting.case;
    let adapters = Adapters::initialize(
        &case.config.lora,
        case.shape,
        case.config.training.seed,
        case.device,
    )?;
    let gradients = gradients(&adapters, setting)?;
    let parameters = adapters.parameters();
    let backend = &*setting.backend;
    let norm = || gradients.norm(backend);
    table.add(
        Place::Update,
        "gradient norm",
        Work::Bytes((4 * parameters) as f64),
        1,
        norm,
    )?;
    let norm = norm()?;
    for (name, form, bytes) in [
        ("AdamW, f32 moments", OptimizerKind::Adamw, FULL),
        ("AdamW, 8-bit moments", OptimizerKind::Adamw8bit, CODED),
    ] {
        let optimizer = Optimizer::new(&adapters, form)?;
        let run = || {
            optimizer.updated(
                backend,
                &adapters,
                &gradients,
                &norm,
                1e-4,
                &case.config.training,
            )
        };
        let calls = usize::from(case.config.training.optimizer == form);
        table.add(
            Place::Update,
            name,
            Work::Bytes((bytes * parameters) as f64),
            calls,
            run,
        )?;
    }
    Ok(())
}

fn gradients(adapters: &Adapters, setting: &Setting<'_>) -> Result<Gradients> {
    let mut gradients = Gradients::none(adapters);
    let like = |tensor: &Tensor| setting.inputs.bounded(tensor.dims2()?, DType::F32, 1e-3);
    for (site, factors) in adapters.factors.iter().enumerate() {
        gradients.set(
            site,
            FactorGrad {
                a: like(&factors.a)?,
                b: like(&factors.b)?,
                magnitude: None,
            },
        );
    }
    Ok(gradients)
}
