//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in the order of PyTorch's `AdamW`; its moments in
//! `f32`, or in 8 bits as bitsandbytes' `AdamW8bit` keeps them (Dettmers et al., 2022).

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use crate::Result;
use crate::cpu::{self, dynamic8};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::view::{on_cpu, tensor, view};

/// Tensors of fewer elements keep their moments in `f32` in any case, as bitsandbytes has it.
pub const SMALLEST_IN_8_BITS: usize = 4096;

/// The constants of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// What an element's update needs of a rule, rounded once; laid out as the kernels read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Constants {
    pub beta1: f32,
    pub beta2: f32,
    /// 1 - beta: in `f32` the difference would lose four digits.
    pub share1: f32,
    pub share2: f32,
    pub epsilon: f32,
    /// What decay leaves of a value.
    pub keep: f32,
    pub step: f32,
    pub root: f32,
}

/// First and second moments of a parameter.
#[derive(Debug, Clone)]
pub enum Moments {
    /// `f32`, of the parameter's shape.
    Full {
        first: Tensor,
        second: Tensor,
    },
    Coded {
        first: Coded,
        second: Coded,
    },
}

/// Values in 8 bits: codes [elements] as `u8` and a scale for each 256 of them.
#[derive(Debug, Clone)]
pub struct Coded {
    pub codes: Tensor,
    pub scales: Tensor,
}

impl Coded {
    /// Zeros.
    fn new(elements: usize, map: &dynamic8::Map8, device: &Device) -> Result<Self> {
        let codes = vec![map.code(0.0); elements];
        let scales = Tensor::zeros(elements.div_ceil(dynamic8::BLOCK), DType::F32, device)?;
        Ok(Self { codes: Tensor::from_vec(codes, elements, device)?, scales })
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<f32>)> {
        let (storage, layout) = self.codes.storage_and_layout();
        let (Storage::Cpu(CpuStorage::U8(codes)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            candle_core::bail!("codes of a moment are not bytes on the cpu")
        };
        Ok((codes[start..end].to_vec(), view(&self.scales)?.to_vec()))
    }

    fn write((codes, scales): (Vec<u8>, Vec<f32>)) -> Result<Self> {
        let (elements, blocks) = (codes.len(), scales.len());
        Ok(Self { codes: Tensor::from_vec(codes, elements, &Device::Cpu)?, scales: tensor(scales, blocks)? })
    }

    fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self { codes: self.codes.to_device(device)?, scales: self.scales.to_device(device)? })
    }
}

impl Moments {
    /// Zeros for `value`, in `f32`.
    pub fn full(value: &Tensor) -> Result<Self> {
        Ok(Self::Full { first: value.zeros_like()?, second: value.zeros_like()? })
    }

    /// Zeros for `value`, in 8 bits.
    pub fn coded(value: &Tensor) -> Result<Self> {
        let (elements, device) = (value.elem_count(), value.device());
        Ok(Self::Coded {
            first: Coded::new(elements, &dynamic8::SIGNED, device)?,
            second: Coded::new(elements, &dynamic8::UNSIGNED, device)?,
        })
    }
}

/// A tensor that is trained, and what its update reads.
#[derive(Clone, Copy)]
pub struct Parameter<'a> {
    pub value: &'a Tensor,
    pub moments: &'a Moments,
    /// Of the value's shape, in one piece.
    pub gradient: &'a Tensor,
    pub rule: &'a AdamW,
}

/// The L2 norm over tensors, where it was found.
#[derive(Debug, Clone)]
pub enum Norm {
    Known(f64),
    /// One `f32` on a device, perhaps not computed yet.
    OnDevice(Tensor),
}

impl Norm {
    /// Of all `tensors` together.
    pub fn of(tensors: &[&Tensor]) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if cuda::adamw::applies(tensors) {
            return Ok(Self::OnDevice(cuda::adamw::norm(tensors)?));
        }
        let mut sum = 0f64;
        for tensor in tensors {
            sum += f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(Self::Known(sum.sqrt()))
    }

    /// Waits for the device.
    pub fn value(&self) -> Result<f64> {
        match self {
            Self::Known(value) => Ok(*value),
            Self::OnDevice(value) => Ok(f64::from(value.flatten_all()?.to_vec1::<f32>()?[0])),
        }
    }
}

/// The factor that brings a gradient of the given norm down to `most`, as PyTorch's `clip_grad_norm_` has it; 0 is no
/// limit.
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    if most == 0.0 { 1.0 } else { (most / (norm + 1e-6)).min(1.0) }
}

/// `base` to the power of `n`, by squaring: systems differ in the last place of their own `pow`.
fn power(mut base: f64, mut n: u64) -> f64 {
    let mut product = 1.0;
    while n > 0 {
        if n % 2 == 1 {
            product *= base;
        }
        base *= base;
        n /= 2;
    }
    product
}

/// New values and moments of all `parameters`, whose gradients have the given norm and are scaled down to `most`; on a
/// GPU without waiting for it.
pub fn update_all(parameters: &[Parameter<'_>], norm: &Norm, most: f64) -> Result<Vec<(Tensor, Moments)>> {
    #[cfg(feature = "cuda")]
    if let Norm::OnDevice(norm) = norm
        && parameters.iter().all(|p| cuda::adamw::applies(&[p.value]))
    {
        return cuda::adamw::update(parameters, norm, most);
    }
    let scale = clip_factor(norm.value()?, most);
    parameters.iter().map(|p| p.rule.update(p.value, p.moments, p.gradient, scale)).collect()
}

impl AdamW {
    /// `value` and its `moments` after one step along `gradient`, which is first multiplied by `scale`.
    pub fn update(
        &self,
        value: &Tensor,
        moments: &Moments,
        gradient: &Tensor,
        scale: f64,
    ) -> Result<(Tensor, Moments)> {
        match moments {
            Moments::Full { first, second } if on_cpu(&[value, first, second, gradient]) => {
                let mut new = view(value)?.to_vec();
                let (mut m, mut v) = (view(first)?.to_vec(), view(second)?.to_vec());
                cpu::adamw::update(self, scale as f32, &view(gradient)?, &mut new, &mut m, &mut v);
                let shape = value.dims();
                Ok((tensor(new, shape)?, Moments::Full { first: tensor(m, shape)?, second: tensor(v, shape)? }))
            }
            Moments::Full { first, second } => self.reference(value, (first, second), gradient, scale),
            Moments::Coded { first, second } => self.coded(value, (first, second), gradient, scale),
        }
    }

    /// On the processor, wherever the tensors are.
    fn coded(
        &self,
        value: &Tensor,
        (first, second): (&Coded, &Coded),
        gradient: &Tensor,
        scale: f64,
    ) -> Result<(Tensor, Moments)> {
        let (cpu, device) = (Device::Cpu, value.device());
        let (mut m, mut v) = (first.to_device(&cpu)?.read()?, second.to_device(&cpu)?.read()?);
        let mut new = view(&value.to_device(&cpu)?)?.to_vec();
        let gradient = gradient.to_device(&cpu)?;
        cpu::adamw::update_coded(self, scale as f32, &view(&gradient)?, &mut new, &mut m, &mut v);
        let (first, second) = (Coded::write(m)?.to_device(device)?, Coded::write(v)?.to_device(device)?);
        Ok((tensor(new, value.dims())?.to_device(device)?, Moments::Coded { first, second }))
    }

    /// [`Self::update`] of full moments in candle's operations.
    pub fn reference(
        &self,
        value: &Tensor,
        (first, second): (&Tensor, &Tensor),
        gradient: &Tensor,
        scale: f64,
    ) -> Result<(Tensor, Moments)> {
        let g = (gradient * scale)?;
        let first = ((first * self.beta1)? + (&g * (1.0 - self.beta1))?)?;
        let second = ((second * self.beta2)? + (g.sqr()? * (1.0 - self.beta2))?)?;
        let root = (second.sqrt()? / self.correction2().sqrt())?;
        let step = (&first / (root + self.epsilon)?)?;
        let decayed = (value * (1.0 - self.learning_rate * self.weight_decay))?;
        let value = (decayed - (step * (self.learning_rate / self.correction1()))?)?;
        Ok((value, Moments::Full { first, second }))
    }

    /// What the kernels read.
    pub fn constants(&self) -> Constants {
        Constants {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            share1: (1.0 - self.beta1) as f32,
            share2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            step: (self.learning_rate / self.correction1()) as f32,
            root: (1.0 / self.correction2().sqrt()) as f32,
        }
    }

    fn correction1(&self) -> f64 {
        1.0 - power(self.beta1, self.step)
    }

    fn correction2(&self) -> f64 {
        1.0 - power(self.beta2, self.step)
    }
}
