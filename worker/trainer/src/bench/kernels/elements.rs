//! Operations that memory alone limits: embedding, rotation, residual stream, biases, columns of
//! fused layers, gated activation.

use candle_core::{DType, Tensor};
use qlora_config::TargetModule as M;
use qlora_kernels::{Activations, DropoutKey, GateFunction, MatmulBackend, RopeTable};
use qlora_planner::{Activation, LayerRope, SavedActivations};

use super::inputs::WEIGHTS;
use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::model::angles;
use crate::weights::{FrozenWeight, Plain};

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    time_embedding(table, setting)?;
    time_rotation(table, setting)?;
    time_residual(table, setting)?;
    time_biases(table, setting)?;
    time_columns(table, setting)?;
    time_gated(table, setting)
}

fn time_embedding(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (case, dtype) = (&setting.case, setting.dtype);
    let is_apart = !case.backend.properties().in_host_memory;
    let on_host = is_apart && case.policy.low_memory.embedding_on_host(case.shape);
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

fn time_rotation(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (shape, tokens) = (setting.case.shape, setting.case.tokens);
    let (width, kv_width) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let Some((_, angles)) = angles(shape, setting.case.length).into_iter().next() else {
        return Ok(());
    };
    let rope = RopeTable::new(&angles, setting.case.length, setting.case.device)?;
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
    let rotates = |layer: usize| shape.layer(layer).rope != LayerRope::Absent;
    let layers = (0..setting.calls.layers)
        .filter(|&layer| rotates(layer))
        .count();
    let runs = if shape.form.head_norms {
        // Queries and keys are kept before their norms, so what is kept is rotated again.
        2 * layers
    } else {
        setting.calls.forward_in(SavedActivations::Qkv, rotates)
    };
    table.add(Place::Rotary, "rotary q, k forward", work, runs, forward)?;
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
        layers,
        backward,
    )
}

/// A sum of its own only in the reference form and after a norm; elsewhere the product before it
/// adds.
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
        // After attention in either pass over a block, after the feed-forward layer in the first.
        if setting.case.shape.form.norms_after {
            3 * setting.calls.layers
        } else {
            runs(M::OProj) + runs(M::DownProj)
        },
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

/// Fused layers: their output taken apart, and the gradients of its parts put together.
fn time_columns(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let (shape, backend) = (setting.case.shape, &setting.backend);
    for &module in shape.modules().iter().filter(|m| !m.parts().is_empty()) {
        let width = |&part: &M| shape.projection(part).0;
        let widths: Vec<_> = module.parts().iter().map(width).collect();
        let size = (setting.case.tokens, widths.iter().sum());
        let whole = setting.inputs.matrix(size, setting.dtype)?;
        let parts = backend.split_columns(&whole, &widths)?;
        let parts: Vec<_> = parts.iter().collect();
        let name = module.name().trim_end_matches("_proj");
        let work = Work::Bytes(2.0 * setting.bytes(size.0 * size.1));
        table.add(
            place(module),
            format!("{name} taken apart"),
            work,
            setting.calls.forward(module),
            || Ok(backend.split_columns(&whole, &widths)?),
        )?;
        let back = match place(module) {
            Place::Gates => Place::GatesBackward,
            _ => Place::HeadsBackward,
        };
        table.add(
            back,
            format!("{name} put together"),
            work,
            setting.calls.layers,
            || Ok(backend.join_columns(&parts)?),
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
