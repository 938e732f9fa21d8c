//! Matrices in NF4 that are written out ahead, on a stream of their own: no other backend has one.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::Result;
use qlora_kernels::types::loss::Head;

use crate::fixture::{gpu, random, reference, same, values};

/// The emulated GPU does the work of another stream as late as events allow, and looks at what is
/// freed.
#[test]
fn a_prefetched_matrix_is_the_same() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let floats = |seed| Tensor::from_vec(values(96 * 320, seed), (96, 320), &Device::Cpu);
    let matrix = |seed| gpu.quantize(&floats(seed)?, 64, true);
    let (first, second, third) = (matrix(1)?, matrix(2)?, matrix(3)?);
    let x = random((5, 320), 4)?.to_device(gpu.device())?.into();
    let wanted = [&first, &second].map(|m| {
        gpu.logits(
            &x,
            Head::new(&gpu.dequantize(m, DType::BF16).expect("bf16"), 1),
        )
    });
    for m in [&first, &second, &second, &third] {
        gpu.prefetch(m)?;
    }
    let found = [&first, &second].map(|m| gpu.logits(&x, Head::new(m, 1)));
    for (found, wanted) in found.into_iter().zip(wanted) {
        same(&found?, &wanted?);
    }
    // The third is let go while it is still on its way.
    drop(third);
    let here = cpu.quantize(&floats(1)?, 64, true)?;
    same(
        &gpu.dequantize(&first, DType::BF16)?,
        &cpu.dequantize(&here, DType::BF16)?,
    );
    // And with the backend that writes it.
    drop((x, gpu));
    Ok(())
}
