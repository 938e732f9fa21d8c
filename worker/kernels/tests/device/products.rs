//! Products by cuBLASLt and their sums.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Activations, Result, Term};

use crate::fixture::{close, elements, gpu, on, random, values};

#[test]
fn products_and_their_sums_agree() -> Result<()> {
    let gpu = gpu();
    let device = gpu.device();
    let (x, w, base) = (
        random((37, 61), 16)?,
        random((45, 61), 17)?,
        random((37, 45), 18)?,
    );
    let (u, b) = (
        random((37, 3), 19)?,
        Tensor::from_vec(values(45 * 3, 20), (45, 3), &Device::Cpu)?,
    );
    let [gx, gw, gbase, gu, gb] = on(device, [&x, &w, &base, &u, &b]);
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    let terms = |x, u| (Activations::from(x), Activations::from(u));
    let (ax, au) = terms(&gx, &gu);
    let sum = [
        Term {
            x: &ax,
            w: &gw,
            scale: 1.0,
        },
        Term {
            x: &au,
            w: &gb,
            scale: 1.5,
        },
    ];
    let low = (wide(&u)?.matmul(&b.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.t()?)? * 1.5)?;
    let wanted = ((wide(&x)?.matmul(&wide(&w)?.t()?)? + low)? + wide(&base)?)?;
    close(&gpu.matmul_forward(&sum, Some(&gbase))?, &wanted, 2.0);
    let back = gpu.matmul_backward(
        &[Term {
            x: &(&gbase).into(),
            w: &gw,
            scale: 0.5,
        }],
        Some(&gx),
    )?;
    close(
        &back,
        &((wide(&base)?.matmul(&wide(&w)?)? * 0.5)? + wide(&x)?)?,
        2.0,
    );
    let outer = gpu.weight_gradient(&(&gbase).into(), &ax, 0.25)?;
    assert_eq!(outer.dtype(), DType::F32);
    close(
        &outer,
        &(wide(&base)?.t()?.matmul(&wide(&x)?)? * 0.25)?,
        1e-3,
    );
    Ok(())
}

/// What an adapter changes in its first steps is smaller than the last place of what it is added
/// to.
#[test]
fn a_small_term_of_a_sum_is_not_rounded_away() -> Result<()> {
    let gpu = gpu();
    let device = gpu.device();
    let mut found = Vec::new();
    for (m, k, n) in [(64, 96, 80), (256, 512, 256), (384, 1024, 512)] {
        let (x, w, base) = (
            random((m, k), 16)?,
            random((n, k), 17)?,
            random((m, n), 18)?,
        );
        let u = Tensor::ones((m, 2), DType::BF16, &Device::Cpu)?;
        let b = |value: f32| Tensor::from_vec(vec![value; 2 * n], (n, 2), &Device::Cpu);
        let [gx, gw, gbase, gu, gb, gzero] = on(device, [&x, &w, &base, &u, &b(1e-3)?, &b(0.0)?]);
        let (ax, au) = (Activations::from(&gx), Activations::from(&gu));
        for base in [None, Some(&gbase)] {
            let mean = |b| {
                let terms = [
                    Term {
                        x: &ax,
                        w: &gw,
                        scale: 1.0,
                    },
                    Term {
                        x: &au,
                        w: b,
                        scale: 1.0,
                    },
                ];
                let sum = elements(&gpu.matmul_forward(&terms, base)?);
                Ok::<_, candle_core::Error>(
                    sum.iter().map(|&v| f64::from(v)).sum::<f64>() / sum.len() as f64,
                )
            };
            found.push(((m, k, n), base.is_some(), mean(&gb)? - mean(&gzero)?));
        }
    }
    assert!(
        found
            .iter()
            .all(|(.., change)| (1e-3..4e-3).contains(change)),
        "0.002 is added: {found:?}"
    );
    Ok(())
}
