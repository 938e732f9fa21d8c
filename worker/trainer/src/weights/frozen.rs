//! A frozen weight with the way its products are computed.

use candle_core::{DType, Device, Tensor};
use qlora_config::Compute;
use qlora_kernels::ops::product;
use qlora_kernels::{Instructions, Linear};

use super::FrozenWeight;
use crate::Result;

/// How products with frozen weights are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// The weight is written out in the element type of the activations and multiplied.
    WrittenOut,
    /// On the processor in bf16 with `f32` sums, a strip of the weight at a time.
    Strips(Instructions),
}

impl Products {
    /// What `wanted` means on `device`: `auto` takes bf16 where the processor has instructions for it.
    pub fn choose(wanted: Compute, device: &Device) -> Self {
        let best = Instructions::best();
        match wanted {
            _ if !device.is_cpu() => Self::WrittenOut,
            Compute::F32 => Self::WrittenOut,
            Compute::Auto if !best.are_fast() => Self::WrittenOut,
            Compute::Auto | Compute::Bf16 => Self::Strips(best),
        }
    }
}

/// A frozen matrix [out, in].
pub struct Frozen {
    weight: Box<dyn FrozenWeight>,
    products: Products,
}

impl Frozen {
    pub fn new(weight: Box<dyn FrozenWeight>, products: Products) -> Self {
        Self { weight, products }
    }

    /// (out, in).
    pub fn shape(&self) -> (usize, usize) {
        self.weight.shape()
    }

    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// The rows `ids` as `dtype`.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        self.weight.rows(ids, dtype)
    }
}

impl Linear for Frozen {
    fn forward(&self, x: &Tensor) -> qlora_kernels::Result<Tensor> {
        if let Products::Strips(instructions) = self.products
            && let Some(strips) = self.weight.strips()?
        {
            return product::forward(x, &*strips, instructions);
        }
        x.matmul(&self.weight.dequantize(x.dtype())?.t()?)
    }

    fn backward(&self, dy: &Tensor) -> qlora_kernels::Result<Tensor> {
        if let Products::Strips(instructions) = self.products
            && let Some(strips) = self.weight.strips()?
        {
            return product::backward(dy, &*strips, instructions);
        }
        dy.matmul(&self.weight.dequantize(dy.dtype())?)
    }
}
