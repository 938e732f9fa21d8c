//! The end of the forward pass and its way back: supervised rows, final norm, output layer, cross
//! entropy.

use candle_core::{DType, Tensor};
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Activations, Term};

use super::inputs::WEIGHTS;
use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::device;

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    // All tokens but the first of a sequence are predicted.
    let supervised = (setting.case.tokens - setting.lengths.len()).max(1);
    let most = setting
        .case
        .policy
        .low_memory
        .logit_rows(device::kind(setting.case.device))
        .max(1);
    let chunk = Chunk {
        rows: supervised.min(most),
        calls: supervised.div_ceil(most),
    };
    time_way_in(table, setting, supervised)?;
    time_output(table, setting, &chunk)?;
    time_kernel(table, setting, &chunk)?;
    time_way_back(table, setting, supervised)
}

/// Rows of logits that exist at one time, and how often a step has as many.
struct Chunk {
    rows: usize,
    calls: usize,
}

/// Every token but the last, where there is more than one.
fn ids(setting: &Setting<'_>, supervised: usize) -> Result<Tensor> {
    let ids: Vec<u32> = (0..supervised as u32).collect();
    Ok(Tensor::new(ids.as_slice(), setting.case.device)?)
}

fn time_way_in(table: &mut Table<'_>, setting: &Setting<'_>, supervised: usize) -> Result<()> {
    let (d, epsilon) = (setting.case.shape.hidden, setting.case.shape.norm_epsilon);
    let last = setting
        .inputs
        .matrix((setting.case.tokens, d), setting.dtype)?;
    let (ids, w) = (
        ids(setting, supervised)?,
        setting.inputs.matrix((1, d), setting.dtype)?.squeeze(0)?,
    );
    let work = Work::Bytes(2.0 * setting.bytes(supervised * d));
    table.add(Place::Loss, "supervised rows, gather", work, 1, || {
        Ok(setting.backend.gather_rows(&last, &ids)?)
    })?;
    let picked = setting.backend.gather_rows(&last, &ids)?;
    table.add(Place::Loss, "final RMSNorm forward", work, 1, || {
        Ok(setting
            .backend
            .rms_norm_forward(&picked, setting.norm_weight(&w), epsilon)?)
    })
}

fn time_output(table: &mut Table<'_>, setting: &Setting<'_>, chunk: &Chunk) -> Result<()> {
    let (d, vocabulary, backend) = (
        setting.case.shape.hidden,
        setting.case.shape.vocabulary,
        &*setting.backend,
    );
    let hidden = Activations::from(setting.inputs.matrix((chunk.rows, d), setting.dtype)?);
    let head = setting
        .inputs
        .bounded((vocabulary, d), DType::BF16, WEIGHTS)?;
    let work = Work::Flops(2.0 * (chunk.rows * vocabulary * d) as f64);
    let name = |way| format!("output layer {way}, {} rows", chunk.rows);
    let scaled = Head {
        scale: setting.case.shape.form.logit_scale.unwrap_or(1.0),
        cap: setting.logit_cap(),
        ..Head::new(&head, 1)
    };
    let forward = || Ok(backend.logits(&hidden, scaled)?);
    table.add(Place::Loss, name("forward"), work, chunk.calls, forward)?;
    let dlogits = Activations::from(
        setting
            .inputs
            .matrix((chunk.rows, vocabulary), setting.dtype)?,
    );
    let backward = || {
        Ok(backend.matmul_backward(
            &[Term {
                x: &dlogits,
                w: &head,
                scale: scaled.scale,
            }],
            None,
        )?)
    };
    table.add(
        Place::LossBackward,
        name("backward"),
        work,
        chunk.calls,
        backward,
    )
}

fn time_kernel(table: &mut Table<'_>, setting: &Setting<'_>, chunk: &Chunk) -> Result<()> {
    let vocabulary = setting.case.shape.vocabulary;
    let targets: Vec<u32> = (0..chunk.rows)
        .map(|i| (i * 31 % vocabulary) as u32)
        .collect();
    let logits = setting
        .inputs
        .matrix((chunk.rows, vocabulary), DType::F32)?;
    // Logits in f32 are read, their gradient is written.
    let work = Work::Bytes((4 * logits.elem_count()) as f64 + setting.bytes(logits.elem_count()));
    let run = || {
        Ok(setting.backend.cross_entropy_of_logits(
            &logits,
            setting.logit_cap(),
            &targets,
            Some(1e-4),
        )?)
    };
    table.add(
        Place::LossKernel,
        "loss and its gradient",
        work,
        chunk.calls,
        run,
    )
}

fn time_way_back(table: &mut Table<'_>, setting: &Setting<'_>, supervised: usize) -> Result<()> {
    let (tokens, d) = (setting.case.tokens, setting.case.shape.hidden);
    let make = |rows| setting.inputs.matrix((rows, d), setting.dtype);
    let (grad, picked, w) = (make(supervised)?, make(supervised)?, make(1)?.squeeze(0)?);
    let w = setting.norm_weight(&w);
    let (_, rstd) =
        setting
            .backend
            .rms_norm_forward(&picked, w, setting.case.shape.norm_epsilon)?;
    let work = Work::Bytes(3.0 * setting.bytes(supervised * d));
    let backward = || {
        Ok(setting
            .backend
            .rms_norm_backward(&grad, &picked, w, &rstd, None)?)
    };
    table.add(
        Place::LossBackward,
        "final RMSNorm backward",
        work,
        1,
        backward,
    )?;
    let ids = ids(setting, supervised)?;
    let work = Work::Bytes(setting.bytes((supervised + tokens) * d));
    table.add(
        Place::LossBackward,
        "supervised rows, scatter",
        work,
        1,
        || Ok(setting.backend.scatter_rows(&grad, &ids, tokens)?),
    )
}
