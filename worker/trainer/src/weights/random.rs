//! Seeded weights of a model's true shape, for measuring without a download: what a step costs does
//! not depend on them.

use candle_core::{Device, Tensor};
use half::bf16;
use qlora_config::TargetModule;
use qlora_data::SplitMix64;
use rayon::prelude::*;

use crate::Result;

/// Largest magnitude; about that of published models' linear layers.
const BOUND: f32 = 0.04;

/// Weights that are made when they are asked for, the same every time.
pub(crate) struct RandomWeights {
    pub seed: u64,
}

impl RandomWeights {
    /// A matrix [rows, cols] in bf16, uniform around zero, with a `number` of its own.
    fn matrix(&self, number: u64, (rows, cols): (usize, usize)) -> Result<Tensor> {
        let mut values = vec![bf16::ZERO; rows * cols];
        values
            .par_chunks_mut(cols)
            .enumerate()
            .for_each(|(row, values)| {
                let mut random = SplitMix64::keyed(self.seed ^ (row as u64) << 32, number);
                for values in values.chunks_mut(4) {
                    for (value, unit) in values.iter_mut().zip(random.signed_units()) {
                        *value = bf16::from_f32(unit * BOUND);
                    }
                }
            });
        Ok(Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)
    }

    pub(crate) fn projection(
        &self,
        layer: usize,
        module: TargetModule,
        shape: (usize, usize),
    ) -> Result<Tensor> {
        self.matrix(
            16 + (layer * TargetModule::SEPARATE.len() + module.index()) as u64,
            shape,
        )
    }

    pub(crate) fn embedding(&self, shape: (usize, usize)) -> Result<Tensor> {
        self.matrix(1, shape)
    }

    pub(crate) fn head(&self, shape: (usize, usize)) -> Result<Tensor> {
        self.matrix(2, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_same_every_time_and_lie_evenly_around_zero() -> Result<()> {
        let values = |seed, module| -> Result<Vec<f32>> {
            let matrix = RandomWeights { seed }.projection(3, module, (64, 501))?;
            Ok(matrix
                .to_dtype(candle_core::DType::F32)?
                .flatten_all()?
                .to_vec1()?)
        };
        let first = values(1, TargetModule::QProj)?;
        assert_eq!(first, values(1, TargetModule::QProj)?);
        assert!(
            first != values(2, TargetModule::QProj)? && first != values(1, TargetModule::KProj)?
        );
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let variance = first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32;
        assert!(
            mean.abs() < 1e-3 && (variance.sqrt() - BOUND / 3f32.sqrt()).abs() < 1e-3,
            "{mean} {variance}"
        );
        assert!(
            first.iter().all(|v| v.abs() <= BOUND * 1.004),
            "rounded to bf16"
        );
        Ok(())
    }
}
