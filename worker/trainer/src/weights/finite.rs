//! Checks in the bytes of a file that elements are finite: quantization would turn a NaN into a
//! code, and nobody would see it again.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Bytes that a thread looks at before it takes the next; whole elements and whole blocks of few
/// bytes.
const PART: usize = 1 << 20;

/// The element of `bytes` that is not finite and its index; types without such values have none.
pub(crate) fn first_broken(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    match dtype {
        Dtype::F32 => find(bytes, |b: [u8; 4]| f32::from_le_bytes(b)),
        Dtype::F16 => find(bytes, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => find(bytes, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
        _ => None,
    }
}

fn find<const N: usize>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> f32 + Sync,
) -> Option<(usize, f32)> {
    let broken = |(index, element): (usize, &[u8])| {
        let value = value(element.try_into().ok()?);
        (!value.is_finite()).then_some((index, value))
    };
    bytes
        .par_chunks(PART)
        .enumerate()
        .find_map_first(|(part, bytes)| {
            bytes
                .chunks_exact(N)
                .enumerate()
                .find_map(broken)
                .map(|(i, value)| (part * (PART / N) + i, value))
        })
}

/// Where the scales of a block stand: in `f16`, or as one `f32`.
enum Scales {
    Half(&'static [usize]),
    Single(usize),
}

/// The scales of ggml's block types (`ggml-common.h`); none for plain elements.
fn scales(dtype: GgmlDType) -> Option<Scales> {
    Some(match dtype {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => return None,
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => Scales::Half(&[0]),
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q8_1 | GgmlDType::Q4K | GgmlDType::Q5K => {
            Scales::Half(&[0, 2])
        }
        GgmlDType::Q2K => Scales::Half(&[80, 82]),
        GgmlDType::Q3K => Scales::Half(&[108]),
        GgmlDType::Q6K => Scales::Half(&[208]),
        GgmlDType::Q8K => Scales::Single(0),
    })
}

/// The first element of a GGUF tensor that is not finite; of blocks the first such scale, which
/// breaks the whole block.
pub(crate) fn first_broken_in_blocks(dtype: GgmlDType, bytes: &[u8]) -> Option<f32> {
    let Some(scales) = scales(dtype) else {
        let plain = match dtype {
            GgmlDType::F32 => Dtype::F32,
            GgmlDType::F16 => Dtype::F16,
            _ => Dtype::BF16,
        };
        return first_broken(plain, bytes).map(|(_, value)| value);
    };
    let half = |block: &[u8], at: usize| {
        Some(f16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?).to_f32())
    };
    let broken = |value: &f32| !value.is_finite();
    bytes
        .par_chunks(dtype.type_size())
        .find_map_first(|block| match scales {
            Scales::Half(places) => places.iter().filter_map(|&at| half(block, at)).find(broken),
            Scales::Single(at) => {
                let bytes = block.get(at..at + 4)?.try_into().ok()?;
                Some(f32::from_le_bytes(bytes)).filter(broken)
            }
        })
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_place_of_an_element_that_is_not_finite_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, PART / 4 + 3, PART / 2 + 1] {
                let mut values = vec![1.5f32; PART / 2 + 9];
                values[at] = bad;
                let same = |found: Option<(usize, f32)>| {
                    let (index, value) = found.expect("a place");
                    assert_eq!((index, value.to_bits() << 9), (at, bad.to_bits() << 9));
                };
                same(first_broken(
                    Dtype::F32,
                    &values
                        .iter()
                        .flat_map(|v| v.to_le_bytes())
                        .collect::<Vec<_>>(),
                ));
                let half = values
                    .iter()
                    .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                    .collect::<Vec<_>>();
                same(
                    first_broken(Dtype::F16, &half)
                        .map(|(at, v)| (at, if v.is_nan() { bad } else { v })),
                );
                let brain = values
                    .iter()
                    .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                    .collect::<Vec<_>>();
                same(
                    first_broken(Dtype::BF16, &brain)
                        .map(|(at, v)| (at, if v.is_nan() { bad } else { v })),
                );
            }
        }
        assert_eq!(first_broken(Dtype::F16, &f16::MAX.to_le_bytes()), None);
        assert_eq!(first_broken(Dtype::U8, &[255; 4]), None);
    }

    /// A NaN in any scale of any block type is found, and whole blocks pass.
    #[test]
    fn scales_of_every_block_type_are_looked_at() {
        let values: Vec<f32> = (0..1024).map(|i| (i % 13) as f32 - 6.0).collect();
        let matrix = Tensor::from_vec(values, (4, 256), &Device::Cpu).expect("a matrix");
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for dtype in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            let blocks = QTensor::quantize(&matrix, dtype).expect("blocks");
            let whole = blocks.data().expect("bytes").into_owned();
            assert_eq!(first_broken_in_blocks(dtype, &whole), None, "{dtype:?}");
            let Some(Scales::Half(places)) = scales(dtype) else {
                panic!("{dtype:?} has no scales")
            };
            for place in places {
                let mut broken = whole.clone();
                let at = dtype.type_size() + place;
                broken[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
                assert!(
                    first_broken_in_blocks(dtype, &broken).is_some_and(f32::is_nan),
                    "{dtype:?}"
                );
                // The scale is where candle reads it: its values are broken too.
                let storage = dtype
                    .from_data(std::borrow::Cow::Owned(broken))
                    .dequantize(1024)
                    .expect("values");
                let candle_core::CpuStorage::F32(values) = storage else {
                    panic!("{dtype:?}")
                };
                assert!(
                    values.iter().any(|v| v.is_nan()),
                    "{dtype:?} has no scale at {place}"
                );
            }
        }
    }
}
