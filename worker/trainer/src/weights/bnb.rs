//! 4-bit layers as bitsandbytes serialises them beside other tensors.

use candle_core::{DType, Device};
use qlora_kernels::{Nf4Scales, Nf4Tensor};
use serde::Deserialize;

use super::safetensors::Shards;
use crate::Result;

/// The JSON that stands, as bytes, in `<weight>.quant_state.bitsandbytes__nf4`.
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<usize>,
    nested_offset: Option<f32>,
}

fn state_name(weight: &str) -> String {
    format!("{weight}.quant_state.bitsandbytes__nf4")
}

/// Whether `weight` is a serialised NF4 layer.
pub(crate) fn is_quantised(shards: &Shards, weight: &str) -> bool {
    shards.has(&state_name(weight))
}

/// Reads `weight` with its scales.
pub(crate) fn read(shards: &Shards, weight: &str, device: &Device) -> Result<Nf4Tensor> {
    let state: QuantState = serde_json::from_slice(&shards.raw(&state_name(weight))?.bytes)
        .map_err(|e| shards.fault(weight, &format!("has an unreadable quant state: {e}")))?;
    let &[rows, cols] = state.shape.as_slice() else {
        return Err(shards.fault(weight, "is not a matrix"));
    };
    let packed = shards.raw(weight)?.bytes;
    let absmax_name = format!("{weight}.absmax");
    let scales = match state.nested_offset {
        None => Nf4Scales::Plain(shards.tensor(&absmax_name, DType::F32, device)?.flatten_all()?),
        Some(offset) => Nf4Scales::Nested {
            codes: shards.native(&absmax_name, device)?.flatten_all()?,
            absmax: shards.tensor(&format!("{weight}.nested_absmax"), DType::F32, device)?.flatten_all()?,
            offset,
        },
    };
    Ok(Nf4Tensor::from_parts(packed, scales, (rows, cols), state.blocksize, device)?)
}
