//! AdamW in candle's operations; moments in 8 bits are updated in host memory.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::host;
use crate::types::adamw::{Moments, Norm, Parameter, clip_factor};

pub(crate) fn norm(tensors: &[&Tensor]) -> Result<Norm> {
    let mut sum = 0f64;
    for tensor in tensors {
        sum += f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(Norm::Known(sum.sqrt()))
}

pub(crate) fn update(
    parameters: &[Parameter<'_>],
    norm: &Norm,
    max_norm: f64,
) -> Result<Vec<(Tensor, Moments)>> {
    let scale = clip_factor(norm.value()?, max_norm);
    let one = |p: &Parameter<'_>| match p.moments {
        Moments::Full { first, second } => full(p, (first, second), scale),
        Moments::Coded { .. } => in_host_memory(p, scale),
    };
    parameters.iter().map(one).collect()
}

fn full(
    p: &Parameter<'_>,
    (first, second): (&Tensor, &Tensor),
    scale: f64,
) -> Result<(Tensor, Moments)> {
    let rule = p.rule;
    let g = (p.gradient * scale)?;
    let first = ((first * rule.beta1)? + (&g * (1.0 - rule.beta1))?)?;
    let second = ((second * rule.beta2)? + (g.sqr()? * (1.0 - rule.beta2))?)?;
    let root = (second.sqrt()? / rule.correction2().sqrt())?;
    let step = (&first / (root + rule.epsilon)?)?;
    let decayed = (p.value * (1.0 - rule.learning_rate * rule.weight_decay))?;
    let value = (decayed - (step * (rule.learning_rate / rule.correction1()))?)?;
    Ok((value, Moments::Full { first, second }))
}

fn in_host_memory(p: &Parameter<'_>, scale: f64) -> Result<(Tensor, Moments)> {
    let device = p.value.device();
    let (value, gradient) = (
        p.value.to_device(&Device::Cpu)?,
        p.gradient.to_device(&Device::Cpu)?,
    );
    let moments = p.moments.to_device(&Device::Cpu)?;
    let here = Parameter {
        value: &value,
        moments: &moments,
        gradient: &gradient,
        rule: p.rule,
    };
    let (value, moments) = host::adamw::update_parameter(&here, scale)?;
    Ok((value.to_device(device)?, moments.to_device(device)?))
}
