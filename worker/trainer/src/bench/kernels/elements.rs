//! Operations that memory alone limits: embedding, norms, rotation, residual stream, biases, gated
//! activation.

use candle_core::{DType, Tensor};
use qlora_config::TargetModule as M;
use qlora_kernels::{Activations, DropoutKey, GateFunction, MatmulBackend, RopeTable};
use qlora_planner::Activation;

use super::Setting;
use super::inputs::WEIGHTS;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::model::angles;
use crate::weights::{FrozenWeight, Plain};

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    time_embedding(table, setting)?;
    time_norms(table, setting)?;
    time_rotation(table, setting)?;
    time_residual(table, setting)?;
    time_biases(table, setting)?;
    time_gated(table, setting)
}

fn time_embedding(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (case, dtype) = (&setting.case, setting.dtype);
    let on_host = !case.device.is_cpu() && case.policy.low_memory.embedding_on_host(case.shape);
    let (vocabulary, d) = (case.shape.vocabulary, case.shape.hidden);
    let host = setting
        .inputs
        .on_host((vocabulary, d), DType::BF16, WEIGHTS)?;
    let holder = if on_host {
        qlora_kernels::backend::host()
    } else {
        setting.backend.clone()
    };
    let (embedding, at) = (Plain(host.to_device(holder.device())?), holder.device());
    let ids: Vec<u32> = (0..case.tokens)
        .map(|i| (i * 7919 % vocabulary) as u32)
        .collect();
    let run = || {
        let found = embedding.rows(&*holder, &Tensor::new(ids.as_slice(), at)?, dtype)?;
        Ok(found.to_device(case.device)?)
    };
    let work = Work::Bytes((2 * case.tokens * d) as f64 + setting.bytes(case.tokens * d));
    table.add(Place::Embedding, "embedding gather", work, 1, run)?;
    if case.shape.form.embedding_scale.is_some() {
        let x = setting.inputs.matrix((case.tokens, d), dtype)?;
        let work = Work::Bytes(2.0 * setting.bytes(case.tokens * d));
        let run = || Ok(setting.backend.affine(&x, 2.0, None)?);
        table.add(Place::Embedding, "embedding scale", work, 1, run)?;
    }
    let alpha = case.config.training.neftune_alpha;
    if alpha > 0.0 {
        let x = setting.inputs.matrix((case.tokens, d), dtype)?;
        let key = DropoutKey {
            seed: 1,
            step: 1,
            projection: u32::MAX,
            first_token: 0,
            probability: 0.0,
        };
        let work = Work::Bytes(2.0 * setting.bytes(case.tokens * d));
        let run = || {
            Ok(setting
                .backend
                .embedding_noise(&x, alpha, setting.sequences.spans(), &key)?)
        };
        table.add(Place::Embedding, "embedding noise", work, 1, run)?;
    }
    Ok(())
}

fn time_norms(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
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
    let again = again(&[M::QProj, M::KProj, M::VProj]) + again(&[M::GateProj, M::UpProj]);
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

fn time_rotation(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (shape, tokens) = (setting.case.shape, setting.case.tokens);
    let (width, kv_width) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let Some((_, angles)) = angles(shape, setting.case.length).into_iter().next() else {
        return Ok(());
    };
    let rope = RopeTable::of(&angles, setting.case.length, setting.case.device)?;
    let make = |width| setting.inputs.matrix((tokens, width), setting.dtype);
    let (q, k, sequences) = (make(width)?, make(kv_width)?, &setting.sequences);
    let backend = &setting.backend;
    let work = Work::Bytes(2.0 * setting.bytes(tokens * (width + kv_width)));
    let forward = || {
        Ok((
            backend.rope_forward(&rope, &q, sequences)?,
            backend.rope_forward(&rope, &k, sequences)?,
        ))
    };
    table.add(
        Place::Rotary,
        "rotary q, k forward",
        work,
        setting.calls.parts.heads,
        forward,
    )?;
    let backward = || {
        Ok((
            backend.rope_backward(&rope, &q, sequences)?,
            backend.rope_backward(&rope, &k, sequences)?,
        ))
    };
    table.add(
        Place::RotaryBackward,
        "rotary q, k backward",
        work,
        setting.calls.layers,
        backward,
    )
}

/// A sum of its own only in the reference form; elsewhere the product before it adds.
fn time_residual(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (tokens, d) = (setting.case.tokens, setting.case.shape.hidden);
    let make = || setting.inputs.matrix((tokens, d), setting.dtype);
    let (a, b) = (make()?, make()?);
    let one_by_one = setting.backend.matmul() == MatmulBackend::Dequantized;
    let runs = |module| {
        if one_by_one && !setting.adapted(&[module]).is_empty() {
            setting.calls.forward(module)
        } else {
            0
        }
    };
    let (work, calls) = (
        Work::Bytes(3.0 * setting.bytes(tokens * d)),
        runs(M::OProj) + runs(M::DownProj),
    );
    table.add(Place::Residual, "residual add", work, calls, || {
        Ok(setting.backend.add(&a, &b)?)
    })
}

/// Those that the model has: a row that is added to the product before it.
fn time_biases(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (shape, tokens) = (setting.case.shape, setting.case.tokens);
    let is_biased = |module: &&M| shape.form.has_bias(**module);
    for &module in shape.modules().iter().filter(is_biased) {
        let width = shape.projection(module).0;
        let make = |rows| setting.inputs.matrix((rows, width), setting.dtype);
        let (x, bias) = (make(tokens)?, make(1)?.squeeze(0)?);
        table.add(
            place(module),
            format!("{} bias", module.name().trim_end_matches("_proj")),
            Work::Bytes(2.0 * setting.bytes(tokens * width)),
            setting.calls.forward(module),
            || Ok(setting.backend.affine(&x, 1.0, Some(&bias))?),
        )?;
    }
    Ok(())
}

/// Where the product of `module` stands in a step.
fn place(module: M) -> Place {
    match module {
        M::QkvProj | M::QProj | M::KProj | M::VProj => Place::Heads,
        M::OProj => Place::Output,
        M::GateUpProj | M::GateProj | M::UpProj => Place::Gates,
        M::DownProj => Place::Down,
    }
}

fn time_gated(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (tokens, f) = (setting.case.tokens, setting.case.shape.ffn);
    let make = || setting.inputs.matrix((tokens, f), setting.dtype);
    // As products leave them: bf16 rows where a CPU multiplies panel by panel.
    let (g, e, dh) = (
        on(setting, make()?)?,
        on(setting, make()?)?,
        on(setting, make()?)?,
    );
    let each = match setting.backend.matmul() {
        MatmulBackend::Panels(_) => (2 * tokens * f) as f64,
        _ => setting.bytes(tokens * f),
    };
    let calls = &setting.calls;
    // Made again for the adapter of the down projection.
    let again = if setting.adapted(&[M::DownProj]).is_empty() {
        0
    } else {
        calls.layers
    };
    let (gate, name) = match setting.case.shape.form.activation {
        Activation::Silu => (GateFunction::Silu, "SwiGLU"),
        Activation::GeluTanh => (GateFunction::GeluTanh, "GeGLU"),
    };
    let forward = || Ok(setting.backend.glu_forward(gate, &g, &e)?);
    table.add(
        Place::Gated,
        format!("{name} forward"),
        Work::Bytes(3.0 * each),
        calls.parts.down + again,
        forward,
    )?;
    let backward = || Ok(setting.backend.glu_backward(gate, &dh, &g, &e)?);
    table.add(
        Place::GatedBackward,
        format!("{name} backward"),
        Work::Bytes(5.0 * each),
        calls.layers,
        backward,
    )
}

/// `x` as a product would leave it for other operations.
fn on(setting: &Setting<'_>, x: Tensor) -> Result<Activations> {
    if !matches!(setting.backend.matmul(), MatmulBackend::Panels(_)) {
        return Ok(x.into());
    }
    let ones = Tensor::ones(x.dim(1)?, x.dtype(), x.device())?;
    Ok(setting
        .backend
        .rms_norm_forward_on(&x, (&ones).into(), 1e-5)?
        .0)
}
