//! NF4 and 8-bit AdamW against bitsandbytes 0.50 (`tests/golden/nf4`, `adamw8bit`).

use std::fs;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::host;
use qlora_kernels::host::dynamic8;
use qlora_kernels::host::nf4::{NestedScales, nest, quantize};
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter};
use qlora_kernels::{Nf4Scales, Nf4Tensor};
use qlora_testkit::golden;

const BLOCK: usize = 64;

struct Case {
    name: String,
    tensors: std::collections::HashMap<String, Tensor>,
}

impl Case {
    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors[name]
            .to_dtype(DType::F32)
            .and_then(|t| t.flatten_all()?.to_vec1());
        tensor.expect("floats")
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors[name]
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("bytes")
    }

    fn shape(&self) -> (usize, usize) {
        self.tensors["weight"].dims2().expect("a matrix")
    }

    fn dtype(&self) -> DType {
        self.tensors["weight"].dtype()
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(golden("nf4")).expect("tests/golden/nf4") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).expect("tensors");
        if tensors.contains_key("packed") {
            cases.push(Case {
                name: path
                    .file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
                tensors,
            });
        }
    }
    assert!(cases.len() >= 19, "only {} cases", cases.len());
    cases
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn rounded(tensor: &Tensor, dtype: DType) -> Vec<f32> {
    let values = tensor
        .to_dtype(dtype)
        .and_then(|t| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1());
    values.expect("floats")
}

#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    for case in cases() {
        let found = quantize(&case.floats("weight"), BLOCK);
        assert_eq!(found.packed, case.bytes("packed"), "{}", case.name);
        assert_eq!(
            bits(&found.absmax),
            bits(&case.floats("absmax")),
            "{}",
            case.name
        );
    }
}

#[test]
fn a_matrix_is_quantized_in_its_own_element_type() {
    for case in cases() {
        let matrix = host()
            .quantize(&case.tensors["weight"], BLOCK, true)
            .expect("a matrix");
        let found = rounded(
            &host().dequantize(&matrix, case.dtype()).expect("values"),
            case.dtype(),
        );
        assert_eq!(
            bits(&found),
            bits(&case.floats("nested.dequant")),
            "{}",
            case.name
        );
    }
}

#[test]
fn dequantized_values_are_those_of_bitsandbytes() {
    for case in cases() {
        let absmax = case.tensors["absmax"].flatten_all().expect("scales");
        let packed = case.bytes("packed");
        let matrix = Nf4Tensor::from_parts(
            packed,
            Nf4Scales::Plain(absmax),
            case.shape(),
            BLOCK,
            &Device::Cpu,
        )
        .expect("a matrix");
        let found = rounded(
            &host().dequantize(&matrix, case.dtype()).expect("values"),
            case.dtype(),
        );
        assert_eq!(bits(&found), bits(&case.floats("dequant")), "{}", case.name);
    }
}

#[test]
fn doubly_quantized_values_are_those_of_bitsandbytes() {
    for case in cases() {
        let scales = NestedScales {
            codes: case.bytes("nested.absmax_u8"),
            absmax: case.floats("nested.absmax"),
            offset: case.floats("nested.offset")[0],
        };
        let scales = scales.to_device(&Device::Cpu).expect("scales");
        let matrix = Nf4Tensor::from_parts(
            case.bytes("packed"),
            scales,
            case.shape(),
            BLOCK,
            &Device::Cpu,
        )
        .expect("a matrix");
        let found = rounded(
            &host().dequantize(&matrix, case.dtype()).expect("values"),
            case.dtype(),
        );
        assert_eq!(
            bits(&found),
            bits(&case.floats("nested.dequant")),
            "{}",
            case.name
        );
    }
}

#[test]
fn second_level_codes_scales_and_offset_are_those_of_bitsandbytes() {
    for case in cases() {
        let found = nest(&case.floats("absmax"));
        assert_eq!(
            found.offset.to_bits(),
            case.floats("nested.offset")[0].to_bits(),
            "{} offset",
            case.name
        );
        assert_eq!(
            bits(&found.absmax),
            bits(&case.floats("nested.absmax")),
            "{} scales",
            case.name
        );
        assert_eq!(
            found.codes,
            case.bytes("nested.absmax_u8"),
            "{} codes",
            case.name
        );
    }
}

#[test]
fn updates_with_8_bit_moments_are_those_of_bitsandbytes() {
    let path = golden("adamw8bit/updates.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).expect("tensors");
    let floats = |name: &str| -> Vec<f32> { tensors[name].to_vec1().expect("floats") };
    let codes = |name: &str| -> Vec<u8> { tensors[name].to_vec1().expect("bytes") };
    assert_eq!(bits(&dynamic8::SIGNED.values), bits(&floats("signed")));
    assert_eq!(bits(&dynamic8::UNSIGNED.values), bits(&floats("unsigned")));
    let mut value = tensors["initial"].clone();
    let mut moments = Moments::coded(&value).expect("moments");
    let mut largest = 0f32;
    for i in 0..6 {
        let rule = AdamWStep {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step: i as u64 + 1,
        };
        let gradient = tensors["gradients"].get(i).expect("a gradient");
        let parameter = Parameter {
            value: &value,
            moments: &moments,
            gradient: &gradient,
            rule: &rule,
        };
        let updated = host()
            .adamw(&[parameter], &Norm::Known(1.0), 0.0)
            .expect("an update");
        [(value, moments)] = updated.try_into().expect("one parameter");
        let wanted: Vec<f32> = tensors["values"]
            .get(i)
            .and_then(|t| t.to_vec1())
            .expect("values");
        let found: Vec<f32> = value.to_vec1().expect("values");
        largest = found
            .iter()
            .zip(&wanted)
            .map(|(a, b)| (a - b).abs())
            .fold(largest, f32::max);
    }
    println!("parity: AdamW with 8-bit moments, 6 updates, values {largest:.1e}");
    assert!(largest < 1e-6, "{largest}");
    let Moments::Coded { first, second } = &moments else {
        panic!("moments changed their form")
    };
    for (coded, name) in [(first, "first"), (second, "second")] {
        assert_eq!(
            coded.codes.to_vec1::<u8>().expect("codes"),
            codes(&format!("{name}_codes")),
            "{name}"
        );
        let scales: Vec<f32> = coded.scales.to_vec1().expect("scales");
        for (ours, theirs) in scales.iter().zip(floats(&format!("{name}_scales"))) {
            assert!(
                (ours - theirs).abs() <= 1e-6 * theirs,
                "{name}: {ours} and {theirs}"
            );
        }
    }
}
