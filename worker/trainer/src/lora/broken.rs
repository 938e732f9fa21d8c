//! Finds trained numbers that are not finite.

use candle_core::Tensor;
use qlora_kernels::Backend;

use super::{Adapters, Factors, NAMES};
use crate::Result;

impl Adapters {
    /// The first trained number that is not finite, with the name of its tensor and its index.
    ///
    /// The norm of all of them, which a device finds in one pass, is finite where they are; only
    /// where it is not are they looked at one by one, for it overflows before they do.
    pub fn first_broken(&self, backend: &dyn Backend) -> Result<Option<(String, usize, f32)>> {
        let tensors: Vec<&Tensor> = self.factors.iter().flat_map(Factors::tensors).collect();
        if backend.grad_norm(&tensors)?.value()?.is_finite() {
            return Ok(None);
        }
        for (site, factors) in self.sites.iter().zip(&self.factors) {
            for (tensor, name) in factors.tensors().zip(NAMES) {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                let broken = values.iter().enumerate().find(|(_, v)| !v.is_finite());
                if let Some((index, &value)) = broken {
                    return Ok(Some((
                        format!("{}.{name}", site.module_path()),
                        index,
                        value,
                    )));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_first_number_that_is_not_finite_is_found_and_a_large_one_is_not() {
        let shape = &qlora_planner::catalogue()[0].shape;
        let host = qlora_kernels::backend::host();
        let whole = Adapters::without_effect(shape, &Device::Cpu).expect("adapters");
        let with = |site: usize, index: usize, value: f32| {
            let mut adapters = whole.clone();
            let b = &mut adapters.factors[site].b;
            let mut values = vec![0.5f32; b.elem_count()];
            values[index] = value;
            *b = Tensor::from_vec(values, b.dims(), &Device::Cpu).expect("a tensor");
            adapters.first_broken(&*host).expect("an answer")
        };
        assert_eq!(whole.first_broken(&*host).expect("an answer"), None);
        // Their squares are infinite, they are not.
        assert_eq!(with(0, 3, f32::MAX), None);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (site, index) in [(0, 0), (2, 7), (shape.layers - 1, 31)] {
                let (tensor, at, found) = with(site, index, value).expect("a place");
                let wanted = format!("model.layers.{site}.");
                assert!(tensor.starts_with(&wanted), "{tensor}");
                assert!(
                    tensor.ends_with("lora_B.weight") && at == index,
                    "{tensor} {at}"
                );
                assert_eq!(found.to_bits(), value.to_bits());
            }
        }
    }
}
