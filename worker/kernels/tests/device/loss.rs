//! Cross entropy through the output layer.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Result, backend};

use crate::fixture::{close, gpu, on, random};

/// Loss and gradient of `hidden` through `head`, both in bf16, `rows` rows at a time, with logits
/// as they are, and scaled and capped.
fn loss_agrees(hidden: &Tensor, head: &Tensor, targets: &[u32], rows: usize) -> Result<()> {
    for (scale, cap) in [(1.0, None), (0.75, Some(2.0))] {
        loss_agrees_with((scale, cap), hidden, head, targets, rows)?;
    }
    Ok(())
}

fn loss_agrees_with(
    (scale, cap): (f64, Option<f32>),
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    rows: usize,
) -> Result<()> {
    let (gpu, cpu) = (gpu(), backend::reference(&Device::Cpu, DType::F32));
    let [ghidden, ghead] = on(gpu.device(), [hidden, head]);
    let output = Head {
        scale,
        cap,
        ..Head::new(&ghead, rows)
    };
    let found = gpu
        .cross_entropy(&ghidden, output, targets, Some(0.25), &|| true)?
        .expect("nobody stops it");
    let logits = (hidden
        .to_dtype(DType::F32)?
        .matmul(&head.to_dtype(DType::F32)?.t()?)?
        * scale)?;
    let (sum, grad) = cpu.cross_entropy_of_logits(&logits, cap, targets, Some(0.25))?;
    let sum = sum.value()?;
    let loss = found.sum.value()?;
    assert!((loss - sum).abs() < 1e-5 * sum, "{loss} and {sum}");
    let dlogits = (grad.expect("a gradient").tensor()? * scale)?;
    let wanted = dlogits.matmul(&head.to_dtype(DType::F32)?)?;
    close(&found.grad.expect("a gradient"), &wanted, 2.0);
    let alone = gpu
        .cross_entropy(&ghidden, output, targets, None, &|| true)?
        .expect("nobody stops it");
    assert!(alone.sum.value()? == loss && alone.grad.is_none());
    Ok(())
}

#[test]
fn the_loss_and_its_gradient_agree() -> Result<()> {
    // All rows at once, in parts of which the last is shorter, and more rows than a real step has
    // at one time.
    for (count, rows) in [(41, 1024), (41, 16), (41, 1), (1030, 1024)] {
        let targets: Vec<u32> = (0..count as u32).map(|i| i * 31 % 397).collect();
        loss_agrees(
            &random((count, 64), 16)?,
            &random((397, 64), 17)?,
            &targets,
            rows,
        )?;
    }
    Ok(())
}

/// Rows that are longer than what a block keeps of them: seven parts of 8,192 logits on the
/// emulated GPU.
#[test]
fn the_loss_over_large_vocabularies_agrees() -> Result<()> {
    for v in [70_000, 70_001, 65_600, 8192, 8200] {
        // Logits of which few count, and logits of which all count alike.
        for (spread, mean) in [(1.0, 0.0), (0.01, 1.0)] {
            let targets = [0, v as u32 - 1, 57_343 % v as u32, 57_344 % v as u32, 8191];
            let hidden = (random((5, 16), 16)?.to_dtype(DType::F32)? * (4.0 * spread))?
                .to_dtype(DType::BF16)?;
            let head =
                (random((v, 16), 17)?.to_dtype(DType::F32)? + mean)?.to_dtype(DType::BF16)?;
            loss_agrees(&hidden, &head, &targets, 3)?;
        }
    }
    Ok(())
}
