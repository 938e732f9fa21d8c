//! Updates of AdamWStep, in one pass over the elements.

use candle_core::{DType, Device, Tensor};
use multiversion::multiversion;

use crate::Result;
use crate::host::dynamic8::{self, BLOCK, Map8};
use crate::host::view::{bytes, tensor, view};
use crate::types::adamw::{AdamWStep, Coded, Constants, Moments, Parameter};

impl Moments {
    /// Zeros for `value`, in 8 bits.
    pub fn coded(value: &Tensor) -> Result<Self> {
        let (elements, device) = (value.elem_count(), value.device());
        let zeros = |map: &Map8| {
            let codes = Tensor::from_vec(vec![map.code(0.0); elements], elements, device)?;
            Ok::<_, candle_core::Error>(Coded {
                codes,
                scales: Tensor::zeros(elements.div_ceil(BLOCK), DType::F32, device)?,
            })
        };
        Ok(Self::Coded {
            first: zeros(&dynamic8::SIGNED)?,
            second: zeros(&dynamic8::UNSIGNED)?,
        })
    }
}

/// The update of a parameter whose tensors are in host memory: `gradient` is first multiplied by
/// `scale`.
pub(crate) fn update_parameter(p: &Parameter<'_>, scale: f64) -> Result<(Tensor, Moments)> {
    let (gradient, mut value, shape) = (view(p.gradient)?, view(p.value)?.to_vec(), p.value.dims());
    match p.moments {
        Moments::Full { first, second } => {
            let (mut m, mut v) = (view(first)?.to_vec(), view(second)?.to_vec());
            update(p.rule, scale as f32, &gradient, &mut value, &mut m, &mut v);
            Ok((
                tensor(value, shape)?,
                Moments::Full {
                    first: tensor(m, shape)?,
                    second: tensor(v, shape)?,
                },
            ))
        }
        Moments::Coded { first, second } => {
            let read = |coded: &Coded| {
                Ok::<_, candle_core::Error>((
                    bytes(&coded.codes)?.to_vec(),
                    view(&coded.scales)?.to_vec(),
                ))
            };
            let (mut m, mut v) = (read(first)?, read(second)?);
            update_coded(p.rule, scale as f32, &gradient, &mut value, &mut m, &mut v);
            let moments = Moments::Coded {
                first: coded(m)?,
                second: coded(v)?,
            };
            Ok((tensor(value, shape)?, moments))
        }
    }
}

fn coded((codes, scales): (Vec<u8>, Vec<f32>)) -> Result<Coded> {
    let (elements, blocks) = (codes.len(), scales.len());
    Ok(Coded {
        codes: Tensor::from_vec(codes, elements, &Device::Cpu)?,
        scales: tensor(scales, blocks)?,
    })
}

fn update(
    rule: &AdamWStep,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    elements(&rule.constants(), scale, gradient, value, first, second);
}

/// [`update`] with moments in 8 bits: codes, and a scale for each block of them. A block is read,
/// updated and written at a time.
fn update_coded(
    rule: &AdamWStep,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut (Vec<u8>, Vec<f32>),
    second: &mut (Vec<u8>, Vec<f32>),
) {
    let constants = rule.constants();
    let (signed, unsigned): (&Map8, &Map8) = (&dynamic8::SIGNED, &dynamic8::UNSIGNED);
    let blocks = gradient.chunks(BLOCK).zip(value.chunks_mut(BLOCK));
    let moments = first
        .0
        .chunks_mut(BLOCK)
        .zip(&mut first.1)
        .zip(second.0.chunks_mut(BLOCK).zip(&mut second.1));
    for ((g, w), ((m_codes, m_scale), (v_codes, v_scale))) in blocks.zip(moments) {
        let mut m = decoded(signed, m_codes, *m_scale);
        let mut v = decoded(unsigned, v_codes, *v_scale);
        elements(
            &constants,
            scale,
            g,
            w,
            &mut m[..g.len()],
            &mut v[..g.len()],
        );
        *m_scale = signed.quantize(&m[..g.len()], m_codes);
        *v_scale = unsigned.quantize(&v[..g.len()], v_codes);
    }
}

fn decoded(map: &Map8, codes: &[u8], scale: f32) -> [f32; BLOCK] {
    let mut values = [0f32; BLOCK];
    values
        .iter_mut()
        .zip(codes)
        .for_each(|(value, &code)| *value = map.values[code as usize] * scale);
    values
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn elements(
    c: &Constants,
    scale: f32,
    gradient: &[f32],
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    for (((g, w), m), v) in gradient.iter().zip(value).zip(first).zip(second) {
        let g = g * scale;
        *m = c.beta1 * *m + c.one_minus_beta1 * g;
        *v = c.beta2 * *v + c.one_minus_beta2 * g * g;
        *w = *w * c.decay - c.step * *m / (v.sqrt() * c.root + c.epsilon);
    }
}
