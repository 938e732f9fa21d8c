//! Blocks from the weights of a checkpoint.

use candle_core::Tensor;
use qlora_config::{ModelConfig, TargetModule};
use qlora_kernels::{Backend, GateFunction};
use qlora_planner::{Activation, LayerRope};
use rayon::prelude::*;

use super::attention::Attention;
use super::block::Block;
use super::inputs::{Inputs, Layers};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::pass::LinearAt;
use super::{NormPlace, Part};
use crate::lora::Site;
use crate::weights::{Checkpoint, Plain};
use crate::{Error, Result, device};

/// The norm `part`.
pub(super) fn load_norm(
    checkpoint: &Checkpoint,
    part: Part,
    backend: &dyn Backend,
) -> Result<Norm> {
    let shape = &checkpoint.files.shape;
    let weight = checkpoint.vector(part, backend.dtype(), backend.device())?;
    Ok(Norm::new(
        weight,
        shape.form.unit_offset,
        shape.norm_epsilon,
    ))
}

/// The block `index`. Frozen matrices are dequantized at once where `dequantized`, else when they
/// are needed; `ropes` are the kinds of the model's rotary embeddings.
pub(super) fn load_block(
    checkpoint: &Checkpoint,
    index: usize,
    model: &ModelConfig,
    dequantized: bool,
    (backend, ropes): (&dyn Backend, &[LayerRope]),
) -> Result<Block> {
    let shape = &checkpoint.files.shape;
    let load = |&module: &TargetModule| {
        let site = Site {
            layer: index,
            module,
        };
        load_linear(checkpoint, site, model, dequantized, backend)
    };
    // Where the device allows it, one matrix is quantized while the next is read.
    let modules = shape.modules();
    let mut linears: Vec<LinearAt> = if backend.properties().loads_in_parallel {
        modules.par_iter().map(load).collect::<Result<_>>()?
    } else {
        modules.iter().map(load).collect::<Result<_>>()?
    };
    let mut take = |module: TargetModule| {
        let place = linears.iter().position(|at| at.module == module);
        let missing = || candle_core::Error::Msg(format!("a block without {module}"));
        place.map(|i| linears.swap_remove(i)).ok_or_else(missing)
    };
    let norm = |place: NormPlace| {
        let part = Part::Norm {
            layer: index,
            place,
        };
        load_norm(checkpoint, part, backend)
    };
    let norm_after = |place: NormPlace| {
        let has = shape.form.norms_after;
        has.then(|| norm(place)).transpose()
    };
    use TargetModule as M;
    let width = |module: TargetModule| shape.projection(module).0;
    let attention = Attention {
        inputs: Inputs {
            norm: norm(NormPlace::BeforeAttention)?,
            layers: if shape.form.fused {
                Layers::Fused(take(M::QkvProj)?)
            } else {
                Layers::Separate([take(M::QProj)?, take(M::KProj)?, take(M::VProj)?])
            },
            widths: [width(M::QProj), width(M::KProj), width(M::VProj)],
        },
        head_norms: if shape.form.head_norms {
            Some([norm(NormPlace::Query)?, norm(NormPlace::Key)?])
        } else {
            None
        },
        output: take(M::OProj)?,
        norm_after: norm_after(NormPlace::AfterAttention)?,
        shape: device::attention_shape(shape, index),
        rope: rope_of(shape.layer(index).rope, ropes)?,
    };
    let mlp = Mlp {
        inputs: Inputs {
            norm: norm(NormPlace::BeforeMlp)?,
            layers: if shape.form.fused {
                Layers::Fused(take(M::GateUpProj)?)
            } else {
                Layers::Separate([take(M::GateProj)?, take(M::UpProj)?])
            },
            widths: [width(M::GateProj), width(M::UpProj)],
        },
        gate: match shape.form.activation {
            Activation::Silu => GateFunction::Silu,
            Activation::GeluTanh => GateFunction::GeluTanh,
        },
        down: take(M::DownProj)?,
        norm_after: norm_after(NormPlace::AfterMlp)?,
    };
    Ok(Block {
        index,
        attention,
        mlp,
    })
}

/// The place of the table of `kind` among `ropes`; none where nothing is rotated.
fn rope_of(kind: LayerRope, ropes: &[LayerRope]) -> Result<Option<usize>> {
    if kind == LayerRope::Absent {
        return Ok(None);
    }
    let place = ropes.iter().position(|&other| other == kind);
    let missing = || candle_core::Error::Msg(format!("a model without the angles of {kind:?}"));
    Ok(Some(place.ok_or_else(missing)?))
}

fn load_linear(
    checkpoint: &Checkpoint,
    site: Site,
    model: &ModelConfig,
    dequantized: bool,
    backend: &dyn Backend,
) -> Result<LinearAt> {
    let (shape, dtype) = (&checkpoint.files.shape, backend.dtype());
    let weight = checkpoint.weight(site, model, backend)?;
    let wanted = shape.projection(site.module);
    if weight.shape() != wanted {
        return Err(Error::Tensor {
            path: checkpoint.files.path.clone(),
            tensor: format!("block {} {}", site.layer, site.module),
            fault: format!("is {:?}, the configuration says {wanted:?}", weight.shape()),
        });
    }
    let weight = if dequantized {
        Box::new(Plain(backend.dequantize(&*weight, dtype)?))
    } else {
        weight
    };
    let bias: Option<Tensor> = if shape.form.has_bias(site.module) {
        Some(checkpoint.vector(Part::Bias(site), dtype, backend.device())?)
    } else {
        None
    };
    let adds = matches!(site.module, TargetModule::OProj | TargetModule::DownProj);
    let scale = shape.form.residual_scale.filter(|_| adds).unwrap_or(1.0);
    let Site { layer, module } = site;
    let linear = Linear::new(weight, bias, scale)?;
    Ok(LinearAt {
        layer,
        module,
        linear,
    })
}
