//! The linear layers of a block: their matrices in NF4, their products, and what their adapters
//! add.

use candle_core::{DType, Tensor};
use qlora_config::{Quantization, TargetModule as M};
use qlora_kernels::{
    Activations, DropoutKey, LoraBackwardInput, LoraInput, MatmulBackend, Matrix, Nf4Tensor, Term,
};
use qlora_planner::{ModelShape, held};

use super::inputs::WEIGHTS;
use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;

/// Layers that share their input, and where they stand in a step.
struct Group {
    modules: Vec<M>,
    forward: Place,
    backward: Place,
}

/// Those of a block of `shape`.
fn groups(shape: &ModelShape) -> Vec<Group> {
    let places = [
        (
            &[M::QkvProj, M::QProj, M::KProj, M::VProj][..],
            Place::Heads,
            Place::HeadsBackward,
        ),
        (&[M::OProj], Place::Output, Place::OutputBackward),
        (
            &[M::GateUpProj, M::GateProj, M::UpProj],
            Place::Gates,
            Place::GatesBackward,
        ),
        (&[M::DownProj], Place::Down, Place::DownBackward),
    ];
    let group = |(modules, forward, backward): (&[M], Place, Place)| Group {
        modules: own(shape, modules),
        forward,
        backward,
    };
    places.into_iter().map(group).collect()
}

/// Those of `modules` that the model has.
fn own(shape: &ModelShape, modules: &[M]) -> Vec<M> {
    let has = |module: &M| shape.modules().contains(module);
    modules.iter().copied().filter(has).collect()
}

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    for group in &groups(setting.case.shape) {
        time_adapters(table, setting, group)?;
        for modules in alike(group) {
            time_modules(table, setting, group, modules)?;
        }
    }
    Ok(())
}

/// The modules of `group` in runs of one shape: queries apart from keys and values.
fn alike(group: &Group) -> impl Iterator<Item = &[M]> {
    let (first, rest) = group.modules.split_at(if group.modules.len() == 3 {
        1
    } else {
        group.modules.len()
    });
    [first, rest]
        .into_iter()
        .filter(|modules| !modules.is_empty())
}

/// `q`, or `k, v`.
fn label(modules: &[M]) -> String {
    modules
        .iter()
        .map(|module| module.name().trim_end_matches("_proj"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One matrix of a projection, in the form that a product takes.
enum Weight {
    Tensor(Tensor),
    Codes(Nf4Tensor),
}

impl Weight {
    fn matrix(&self) -> &dyn Matrix {
        match self {
            Self::Tensor(tensor) => tensor,
            Self::Codes(codes) => codes,
        }
    }
}

/// Operations of projections of one shape.
fn time_modules(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    group: &Group,
    modules: &[M],
) -> Result<()> {
    let (n, k) = setting.case.shape.projection(modules[0]);
    let weight = time_matrix(table, setting, group, modules)?;
    let rows = |width| {
        Ok::<_, crate::Error>(Activations::from(
            setting
                .inputs
                .matrix((setting.case.tokens, width), setting.dtype)?,
        ))
    };
    let (x, dy) = (rows(k)?, rows(n)?);
    time_forward(table, setting, group, modules, (&x, weight.matrix()))?;
    time_backward(table, setting, group, modules, (&dy, weight.matrix()))?;
    drop((x, weight));
    time_updates(table, setting, group, modules, &dy)
}

/// Quantization and back; gives the matrix that the products take.
fn time_matrix(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    group: &Group,
    modules: &[M],
) -> Result<Weight> {
    let (model, backend, dtype) = (&setting.case.config.model, &*setting.backend, setting.dtype);
    let shape = setting.case.shape.projection(modules[0]);
    let plain = setting.inputs.bounded(shape, DType::BF16, WEIGHTS)?;
    if held(model) != Quantization::Nf4 {
        return Ok(Weight::Tensor(if dtype == DType::BF16 {
            plain
        } else {
            plain.to_dtype(dtype)?
        }));
    }
    let elements = (shape.0 * shape.1) as f64;
    let quantize = || Ok(backend.quantize(&plain, model.block_size, model.double_quant)?);
    let codes = quantize()?;
    let held = codes.bytes() as f64;
    table.add(
        Place::Load,
        format!("{} quantize", label(modules)),
        Work::Bytes(2.0 * elements + held),
        0,
        quantize,
    )?;
    let work = Work::Bytes(held + elements * dtype.size_in_bytes() as f64);
    for &module in modules {
        let name = format!("{} dequantize", label(&[module]));
        table.add(
            group.forward,
            name,
            work,
            setting.calls.dequantized(module),
            || Ok(backend.dequantize(&codes, dtype)?),
        )?;
    }
    Ok(match backend.matmul() {
        MatmulBackend::Panels(_) => Weight::Codes(codes),
        _ => Weight::Tensor(backend.dequantize(&codes, dtype)?),
    })
}

fn time_forward(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    group: &Group,
    modules: &[M],
    (x, w): (&Activations, &dyn Matrix),
) -> Result<()> {
    let (n, k) = w.shape();
    let (tokens, backend) = (setting.case.tokens, &*setting.backend);
    let adapted = !setting.adapted(modules).is_empty();
    let residual = matches!(modules[0], M::OProj | M::DownProj);
    let base = residual
        .then(|| setting.inputs.matrix((tokens, n), setting.dtype))
        .transpose()?;
    // What the adapter adds is a part of the same sum.
    let (rank, scale) = (setting.case.config.lora.r, setting.case.config.lora.scale());
    let u = Activations::from(setting.inputs.matrix((tokens, rank), setting.dtype)?);
    let b = setting.inputs.bounded((n, rank), DType::F32, WEIGHTS)?;
    let mut terms = vec![Term { x, w, scale: 1.0 }];
    terms.extend(adapted.then_some(Term {
        x: &u,
        w: &b,
        scale,
    }));
    let (name, calls) = (
        format!("{} product forward", label(modules)),
        modules.len() * setting.calls.forward(modules[0]),
    );
    let sums = if adapted { k + rank } else { k };
    let work = Work::Flops(2.0 * (tokens * n * sums) as f64);
    // A fused layer's output is taken apart first.
    if group.forward == Place::Gates && modules.len() > 1 {
        return table.add(group.forward, name, work, calls, || {
            Ok(backend.matmul_forward_on(&terms)?)
        });
    }
    table.add(group.forward, name, work, calls, || {
        Ok(backend.matmul_forward(&terms, base.as_ref())?)
    })
}

fn time_backward(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    group: &Group,
    modules: &[M],
    (dy, w): (&Activations, &dyn Matrix),
) -> Result<()> {
    let (n, k) = w.shape();
    let (tokens, backend, layers) = (setting.case.tokens, &*setting.backend, setting.calls.layers);
    let (name, place) = (
        format!("{} product backward", label(modules)),
        group.backward,
    );
    let work = 2.0 * (tokens * n * k) as f64;
    let term = Term {
        x: dy,
        w,
        scale: 1.0,
    };
    if group.backward == Place::GatesBackward && modules.len() > 1 {
        // One sum: the second product is added to the first.
        let run = || Ok(backend.matmul_backward(&[term, term], None)?);
        return table.add(place, name, Work::Flops(2.0 * work), layers, run);
    }
    let onto = !setting.adapted(&group.modules).is_empty() || group.modules.len() > 1;
    let base = onto
        .then(|| setting.inputs.matrix((tokens, k), setting.dtype))
        .transpose()?;
    let calls = modules.len() * layers;
    if group.backward == Place::DownBackward && base.is_none() {
        return table.add(place, name, Work::Flops(work), calls, || {
            Ok(backend.matmul_backward_on(&[term])?)
        });
    }
    table.add(place, name, Work::Flops(work), calls, || {
        Ok(backend.matmul_backward(&[term], base.as_ref())?)
    })
}

/// dU and dB: products as narrow as the rank, which the rows of the output limit.
fn time_updates(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    group: &Group,
    modules: &[M],
    dy: &Activations,
) -> Result<()> {
    let adapted = setting.adapted(modules);
    let Some(&module) = adapted.first() else {
        return Ok(());
    };
    let (lora, tokens, backend) = (
        &setting.case.config.lora,
        setting.case.tokens,
        &*setting.backend,
    );
    let (n, rank, scale) = (
        setting.case.shape.projection(module).0,
        lora.r,
        lora.scale(),
    );
    let u = Activations::from(setting.inputs.matrix((tokens, rank), setting.dtype)?);
    let b = setting.inputs.bounded((n, rank), DType::F32, WEIGHTS)?;
    let (name, runs) = (label(&adapted), adapted.len());
    let work = Work::Bytes(setting.bytes(tokens * (n + rank)) + (4 * n * rank) as f64);
    let calls = runs * setting.calls.layers;
    let du = || {
        Ok(backend.matmul_backward(
            &[Term {
                x: dy,
                w: &b,
                scale,
            }],
            None,
        )?)
    };
    table.add(
        group.backward,
        format!("{name} adapter, dU = dy B"),
        work,
        calls,
        du,
    )?;
    let db = || Ok(backend.weight_gradient(dy, &u, scale)?);
    table.add(
        group.backward,
        format!("{name} adapter, dB = dy^T u"),
        work,
        calls,
        db,
    )
}

/// What the adapters of `group` do with the input that they share.
fn time_adapters(table: &mut Table<'_>, setting: &Setting<'_>, group: &Group) -> Result<()> {
    let adapted = setting.adapted(&group.modules);
    let Some(&first) = adapted.first() else {
        return Ok(());
    };
    let (lora, tokens, backend) = (
        &setting.case.config.lora,
        setting.case.tokens,
        &*setting.backend,
    );
    let (k, rank, layers) = (
        setting.case.shape.projection(first).1,
        lora.r,
        setting.calls.layers,
    );
    let x = Activations::from(setting.inputs.matrix((tokens, k), setting.dtype)?);
    let mut factors = Vec::new();
    for &module in &adapted {
        let projection = module.index() as u32;
        let key = DropoutKey {
            seed: 1,
            step: 1,
            projection,
            first_token: 0,
            probability: lora.dropout,
        };
        let a = setting.inputs.bounded((rank, k), DType::F32, WEIGHTS)?;
        let du = Activations::from(setting.inputs.matrix((tokens, rank), setting.dtype)?);
        factors.push((a, (lora.dropout > 0.0).then_some(key), du));
    }
    let inputs: Vec<_> = factors
        .iter()
        .map(|(a, mask, _)| LoraInput { a, mask: *mask })
        .collect();
    let name = label(&adapted);
    let read = setting.bytes(tokens * k) + (4 * adapted.len() * rank * k) as f64;
    let forward = || Ok(backend.lora_forward(&x, &inputs)?);
    // The down projection's is made again on the way back, those of the others are kept.
    let calls = if group.backward == Place::DownBackward {
        2 * layers
    } else {
        layers
    };
    table.add(
        group.forward,
        format!("{name} adapters forward, u = x A^T"),
        Work::Bytes(read),
        calls,
        forward,
    )?;
    let backward_inputs: Vec<_> = inputs
        .iter()
        .zip(&factors)
        .map(|(&adapter, (_, _, du))| LoraBackwardInput { adapter, du })
        .collect();
    let masked = lora.dropout > 0.0;
    let written = if masked {
        setting.bytes(tokens * k)
    } else {
        0.0
    };
    let backward = || Ok(backend.lora_backward(&x, &backward_inputs)?);
    table.add(
        group.backward,
        format!("{name} adapters backward, dA"),
        Work::Bytes(read + written),
        layers,
        backward,
    )?;
    if masked {
        return Ok(());
    }
    // Without masks du A is a product of the sum dx.
    let terms: Vec<_> = factors
        .iter()
        .map(|(a, _, du)| Term {
            x: du,
            w: a as &dyn Matrix,
            scale: 1.0,
        })
        .collect();
    let work = Work::Bytes(setting.bytes(tokens * k * (2 * terms.len() - 1)));
    table.add(
        group.backward,
        format!("{name} adapters, dU A"),
        work,
        layers,
        || Ok(backend.matmul_backward(&terms, None)?),
    )
}
