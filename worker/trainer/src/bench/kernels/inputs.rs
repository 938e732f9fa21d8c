//! Inputs that look random: a GPU is faster, and draws less power, on zeros and on short patterns.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor, WithDType};
use half::bf16;
use qlora_data::SplitMix64;
use rayon::prelude::*;

use crate::Result;

/// Elements that one thread makes at a time.
const PIECE: usize = 1 << 16;
/// Largest magnitude of frozen weights, about that of published models.
pub(super) const WEIGHTS: f32 = 0.04;

/// Makes tensors that all differ, the same ones in every run.
pub(super) struct Inputs<'a> {
    device: &'a Device,
    made: Cell<u64>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self {
            device,
            made: Cell::new(0),
        }
    }

    /// A matrix on the device, uniform between -1 and 1.
    pub(super) fn matrix(&self, shape: (usize, usize), dtype: DType) -> Result<Tensor> {
        self.bounded(shape, dtype, 1.0)
    }

    /// A matrix on the device, uniform between `-bound` and `bound`.
    pub(super) fn bounded(
        &self,
        shape: (usize, usize),
        dtype: DType,
        bound: f32,
    ) -> Result<Tensor> {
        Ok(self.on_host(shape, dtype, bound)?.to_device(self.device)?)
    }

    /// [`Self::bounded`] on the CPU, in `f32` or bf16.
    pub(super) fn on_host(
        &self,
        shape: (usize, usize),
        dtype: DType,
        bound: f32,
    ) -> Result<Tensor> {
        self.made.set(self.made.get() + 1);
        let (n, seed) = (shape.0 * shape.1, self.made.get());
        if dtype == DType::BF16 {
            return Ok(tensor(
                elements(n, seed, |value| bf16::from_f32(bound * value)),
                shape,
            )?);
        }
        Ok(tensor(elements(n, seed, |value| bound * value), shape)?)
    }
}

fn tensor<T: WithDType>(values: Vec<T>, shape: (usize, usize)) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// `n` elements of 16 bits, scaled to between -1 and 1; one draw of SplitMix64 gives four.
fn elements<T: Clone + Default + Send>(
    n: usize,
    seed: u64,
    convert: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    let mut values = vec![T::default(); n];
    values
        .par_chunks_mut(PIECE)
        .enumerate()
        .for_each(|(piece, values)| {
            let mut random = SplitMix64::keyed((piece as u64) << 32, seed);
            for values in values.chunks_mut(4) {
                for (value, unit) in values.iter_mut().zip(random.signed_units()) {
                    *value = convert(unit);
                }
            }
        });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_differ_do_not_repeat_and_lie_evenly_around_zero() -> Result<()> {
        let inputs = Inputs::new(&Device::Cpu);
        let values = || -> Result<Vec<f32>> {
            Ok(inputs
                .bounded((3, PIECE), DType::F32, 0.5)?
                .flatten_all()?
                .to_vec1()?)
        };
        let (first, second) = (values()?, values()?);
        assert!(first != second && first[..PIECE] != first[PIECE..2 * PIECE]);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let top = first.iter().fold(0f32, |top, value| top.max(value.abs()));
        assert!(
            mean.abs() < 5e-3 && top <= 0.5 && top > 0.499,
            "mean {mean}, largest {top}"
        );
        Ok(())
    }
}
