//! Norms: before attention and the feed-forward layer, over heads, and after either.

use qlora_config::TargetModule as M;

use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let form = &setting.case.shape.form;
    time_before(table, setting)?;
    if form.head_norms {
        time_heads(table, setting)?;
    }
    if form.norms_after {
        time_after(table, setting)?;
    }
    Ok(())
}

fn time_before(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (tokens, d, epsilon) = (
        setting.case.tokens,
        setting.case.shape.hidden,
        setting.case.shape.norm_epsilon,
    );
    let make = |rows| setting.inputs.matrix((rows, d), setting.dtype);
    let (x, dy, residual, w) = (
        make(tokens)?,
        make(tokens)?,
        make(tokens)?,
        make(1)?.squeeze(0)?,
    );
    let w = setting.norm_weight(&w);
    let calls = &setting.calls;
    // The norm of an adapter's input is made again on the way back.
    let again = |modules: &[M]| {
        if setting.adapted(modules).is_empty() {
            0
        } else {
            calls.layers
        }
    };
    let again = again(&[M::QkvProj, M::QProj, M::KProj, M::VProj])
        + again(&[M::GateUpProj, M::GateProj, M::UpProj]);
    let runs = calls.parts.heads + calls.parts.gates + again;
    let bytes = setting.bytes(tokens * d);
    let forward = || Ok(setting.backend.rms_norm_forward_on(&x, w, epsilon)?);
    table.add(
        Place::Norm,
        "RMSNorm forward",
        Work::Bytes(2.0 * bytes),
        runs,
        forward,
    )?;
    let (_, rstd) = setting.backend.rms_norm_forward(&x, w, epsilon)?;
    let backward = || {
        Ok(setting
            .backend
            .rms_norm_backward(&dy, &x, w, &rstd, Some(&residual))?)
    };
    table.add(
        Place::NormBackward,
        "RMSNorm backward",
        Work::Bytes(4.0 * bytes),
        2 * calls.layers,
        backward,
    )
}

/// Over the heads of queries and keys, which are kept as they are before it: in either pass over a
/// block.
fn time_heads(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let shape = setting.case.shape;
    let heads = shape.heads + shape.kv_heads;
    let rows = (setting.case.tokens * heads, shape.head_dim);
    let calls = &setting.calls;
    time_plain(
        table,
        setting,
        rows,
        "q, k norms",
        (2 * calls.layers, calls.layers),
    )
}

/// Of what attention and the feed-forward layer give: that of attention in either pass over a block,
/// that of the feed-forward layer at the end of the first and on the way back.
fn time_after(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let rows = (setting.case.tokens, setting.case.shape.hidden);
    let calls = &setting.calls;
    time_plain(
        table,
        setting,
        rows,
        "norms after",
        (4 * calls.layers, 2 * calls.layers),
    )
}

/// A norm whose result no product reads, and whose gradient is added to nothing; `calls` forward and
/// backward.
fn time_plain(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    rows: (usize, usize),
    name: &str,
    calls: (usize, usize),
) -> Result<()> {
    let (backend, epsilon) = (&setting.backend, setting.case.shape.norm_epsilon);
    let make = |rows| setting.inputs.matrix(rows, setting.dtype);
    let (x, dy, w) = (make(rows)?, make(rows)?, make((1, rows.1))?.squeeze(0)?);
    let w = setting.norm_weight(&w);
    let bytes = setting.bytes(rows.0 * rows.1);
    let (_, rstd) = backend.rms_norm_forward(&x, w, epsilon)?;
    table.add(
        Place::Norm,
        format!("{name} forward"),
        Work::Bytes(2.0 * bytes),
        calls.0,
        || Ok(backend.rms_norm_forward(&x, w, epsilon)?),
    )?;
    table.add(
        Place::NormBackward,
        format!("{name} backward"),
        Work::Bytes(3.0 * bytes),
        calls.1,
        || Ok(backend.rms_norm_backward(&dy, &x, w, &rstd, None)?),
    )
}
