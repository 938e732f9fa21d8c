//! 4-bit layers as bitsandbytes serializes them beside other tensors: codes, scales, both maps, and
//! a description.

use candle_core::{DType, Device, Tensor};
use qlora_config::ModelConfig;
use qlora_kernels::host::nf4;
use qlora_kernels::{Backend, Nf4Scales, Nf4Tensor};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::json;

use super::safetensors::{ShardEntry, Shards};
use crate::Result;

/// The JSON that stands, as bytes, in `<weight>.quant_state.bitsandbytes__nf4`.
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<usize>,
    nested_offset: Option<f32>,
}

/// Bytes of a description: its length must be known before the values in it are, so it is padded
/// with spaces.
const STATE_BYTES: usize = 224;

fn state_name(weight: &str) -> String {
    format!("{weight}.quant_state.bitsandbytes__nf4")
}

/// Whether `weight` is a serialized NF4 layer.
pub(crate) fn is_quantized(shards: &Shards, weight: &str) -> bool {
    shards.has(&state_name(weight))
}

/// The weight that the tensor `name` describes: codes of scales, maps, or the description itself.
pub(crate) fn weight_of(name: &str) -> Option<&str> {
    let parts = [
        ".absmax",
        ".quant_map",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_state.bitsandbytes__nf4",
    ];
    parts.iter().find_map(|part| name.strip_suffix(part))
}

/// Reads `weight` with its scales.
pub(crate) fn read(shards: &Shards, weight: &str, device: &Device) -> Result<Nf4Tensor> {
    let state: QuantState = serde_json::from_slice(&shards.raw(&state_name(weight))?.bytes)
        .map_err(|e| shards.fault(weight, &format!("has an unreadable quant state: {e}")))?;
    let &[rows, cols] = state.shape.as_slice() else {
        return Err(shards.fault(weight, "is not a matrix"));
    };
    if state.blocksize == 0
        || state
            .nested_offset
            .is_some_and(|offset| !offset.is_finite())
    {
        return Err(shards.fault(
            weight,
            "has a quant state of blocks of 0, or with an offset that is not finite",
        ));
    }
    let packed = shards.raw(weight)?.bytes;
    let absmax_name = format!("{weight}.absmax");
    let scales = match state.nested_offset {
        None => Nf4Scales::Plain(
            shards
                .tensor(&absmax_name, DType::F32, device)?
                .flatten_all()?,
        ),
        Some(offset) => Nf4Scales::Nested {
            codes: shards.native(&absmax_name, device)?.flatten_all()?,
            absmax: shards
                .tensor(&format!("{weight}.nested_absmax"), DType::F32, device)?
                .flatten_all()?,
            offset,
        },
    };
    Ok(Nf4Tensor::from_parts(
        packed,
        scales,
        (rows, cols),
        state.blocksize,
        device,
    )?)
}

/// Said of a matrix that [`quantize`] makes nothing of.
pub(crate) const BEYOND: &str = "has elements too large for NF4: the mean of its scales overflows";

/// `matrix` in NF4 as `model` says; none where a scale would not be finite. The mean of the scales,
/// which double quantization takes off, can overflow where no scale does.
pub(crate) fn quantize(
    matrix: &Tensor,
    model: &ModelConfig,
    backend: &dyn Backend,
) -> Result<Option<Nf4Tensor>> {
    let quantized = backend.quantize(matrix, model.block_size, model.double_quant)?;
    let Nf4Scales::Nested { absmax, offset, .. } = quantized.scales() else {
        return Ok(Some(quantized));
    };
    let scales = absmax.to_vec1::<f32>()?;
    if !offset.is_finite() || scales.iter().any(|scale| !scale.is_finite()) {
        return Ok(None);
    }
    // No scale is larger than this sum; where it overflows, the elements themselves tell.
    let bound = scales.iter().fold(offset.abs(), |bound, scale| {
        bound.max(scale.abs() + offset.abs())
    });
    let finite = bound.is_finite() || {
        let values = backend
            .dequantize(&quantized, DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        values.iter().all(|value| value.is_finite())
    };
    Ok(finite.then_some(quantized))
}

/// What takes the place of the matrix `entry` when it is quantized.
pub(crate) fn entries(entry: &ShardEntry, block: usize, double: bool) -> Vec<ShardEntry> {
    let elements: usize = entry.shape.iter().product();
    let (packed, blocks) = (elements.div_ceil(2), elements.div_ceil(block));
    let named = |suffix: &str, dtype: Dtype, shape: Vec<usize>, size: usize| ShardEntry {
        name: format!("{}{suffix}", entry.name),
        dtype,
        bytes: shape.iter().product::<usize>() * size,
        shape,
    };
    let mut entries = vec![named("", Dtype::U8, vec![packed, 1], 1)];
    if double {
        let groups = blocks.div_ceil(nf4::NESTED_BLOCK);
        entries.extend([
            named(".absmax", Dtype::U8, vec![blocks], 1),
            named(".nested_absmax", Dtype::F32, vec![groups], 4),
            named(".nested_quant_map", Dtype::F32, vec![256], 4),
        ]);
    } else {
        entries.push(named(".absmax", Dtype::F32, vec![blocks], 4));
    }
    entries.push(named(".quant_map", Dtype::F32, vec![16], 4));
    entries.push(ShardEntry {
        name: state_name(&entry.name),
        ..named("", Dtype::U8, vec![STATE_BYTES], 1)
    });
    entries
}

/// The bytes of [`entries`], in the same order, for a matrix that was of `dtype`.
pub(crate) fn parts(matrix: &Nf4Tensor, dtype: DType) -> Result<Vec<Vec<u8>>> {
    let bytes = |tensor: &Tensor| tensor.to_vec1::<u8>();
    let floats = |values: &[f32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let (rows, cols) = matrix.dims();
    let dtype = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    let mut state = json!({"quant_type": "nf4", "blocksize": matrix.block(), "dtype": dtype, "shape": [rows, cols]});
    let mut parts = vec![bytes(matrix.packed())?];
    match matrix.scales() {
        Nf4Scales::Plain(absmax) => parts.push(floats(&absmax.to_vec1()?)),
        Nf4Scales::Nested {
            codes,
            absmax,
            offset,
        } => {
            state["nested_blocksize"] = json!(nf4::NESTED_BLOCK);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(f64::from(*offset));
            parts.extend([
                bytes(codes)?,
                floats(&absmax.to_vec1()?),
                floats(nf4::dynamic_table()),
            ]);
        }
    }
    parts.push(floats(nf4::table()));
    let mut state = state.to_string().into_bytes();
    state.resize(STATE_BYTES.max(state.len()), b' ');
    parts.push(state);
    Ok(parts)
}
